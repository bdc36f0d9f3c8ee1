"""What is known of the traffic: the days of the request log, and the gauges of the service."""
