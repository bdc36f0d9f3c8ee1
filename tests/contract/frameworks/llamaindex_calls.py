"""LlamaIndex against the gateway: prints what it got as one JSON object."""

import json
import os
import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

base_url, api_key, model = os.environ["BASE_URL"], os.environ["API_KEY"], sys.argv[1]


def weather(city: str) -> str:
    """The weather somewhere."""
    return f"sunny in {city}"


llm = OpenAILike(
    model=model,
    api_base=base_url,
    api_key=api_key,
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=128_000,
    max_retries=0,
)
answer = llm.chat([ChatMessage(role="user", content="good morning")])
night = [ChatMessage(role="user", content="good night")]
pieces = [piece.delta for piece in llm.stream_chat(night)]
asked = llm.chat_with_tools(
    [FunctionTool.from_defaults(weather)],
    user_msg="what is the weather in Berlin?",
    tool_choice="weather",
)
calls = llm.get_tool_calls_from_response(asked)
embeddings = OpenAILikeEmbedding(
    model_name="text-embedding-3-small", api_base=base_url, api_key=api_key
)
vectors = embeddings.get_text_embedding_batch(["one", "two"])
print(
    json.dumps(
        {
            "chat": answer.message.content,
            "chat_tokens": answer.raw.usage.total_tokens,
            "stream": "".join(piece or "" for piece in pieces),
            "stream_pieces": sum(bool(piece) for piece in pieces),
            "tool": calls[0].tool_name,
            "embeddings": [len(each) for each in vectors],
        }
    )
)
