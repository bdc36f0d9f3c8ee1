"""A provider on this machine: speaks OpenAI's and Anthropic's wire formats, and fails on request.

It imports nothing of the gateway: that the two agree on the wire is the test.
"""
