"""LangChain against the gateway: prints what it got as one JSON object."""

import json
import os
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

base_url, api_key, model = os.environ["BASE_URL"], os.environ["API_KEY"], sys.argv[1]


class Step(BaseModel):
    """What a structured answer has to be."""

    explanation: str
    number: int


@tool
def weather(city: str) -> str:
    """The weather somewhere."""
    return f"sunny in {city}"


chat = ChatOpenAI(model=model, base_url=base_url, api_key=api_key, max_retries=0)
answer = chat.invoke("good morning")
pieces = list(chat.stream("good night", stream_usage=True))
question = HumanMessage("what is the weather in Berlin?")
asked = chat.bind_tools([weather], tool_choice="weather").invoke([question])
call = asked.tool_calls[0]
said = ToolMessage(weather.invoke({"city": "Berlin"}), tool_call_id=call["id"])
told = chat.bind_tools([weather]).invoke([question, asked, said])
structured = chat.with_structured_output(Step).invoke("one step")
# Its own tokenizer would be fetched from the network.
embeddings = OpenAIEmbeddings(
    model="text-embedding-3-small",
    base_url=base_url,
    api_key=api_key,
    check_embedding_ctx_length=False,
)
later = chat.invoke("whenever you like", extra_body={"prefer_async": True})
print(
    json.dumps(
        {
            "chat": answer.text,
            "chat_tokens": answer.usage_metadata["total_tokens"],
            "stream": "".join(piece.text for piece in pieces),
            "stream_pieces": sum(bool(piece.text) for piece in pieces),
            "stream_tokens": sum(
                piece.usage_metadata["total_tokens"] for piece in pieces if piece.usage_metadata
            ),
            "tool": call["name"],
            "after_tool": bool(told.text or told.tool_calls),
            "structured": isinstance(structured, Step),
            "embeddings": [len(each) for each in embeddings.embed_documents(["one", "two"])],
            "async_id": later.id,
            "async_text": later.text,
        }
    )
)
