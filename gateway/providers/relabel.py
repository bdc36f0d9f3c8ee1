"""Putting our id and the caller's name of the model into the pieces of a stream."""

import orjson

from gateway.providers.fields import decode_object


class Relabel:
    """Rewrites the `id` and `model` of one stream's chunks; the other bytes stay as they came.

    The first chunk is parsed to learn both members as the provider spells them. In the others
    they are replaced as bytes: within JSON's strings quotation marks are escaped, so that nothing
    which was said can look like a member. A chunk without them is parsed and learned from again.
    """

    def __init__(self, completion_id: str, model: str) -> None:
        self._ours = {"id": completion_id, "model": model}
        self._their_id = self._our_id = self._their_model = self._our_model = b""
        self._has_learned = False

    def __call__(self, data: bytes) -> bytes:
        """The chunk under our names. ValueError if it is no JSON object."""
        if self._has_learned and self._their_id in data and self._their_model in data:
            return self._replaced(data)
        return self._learn(data)

    def _replaced(self, data: bytes) -> bytes:
        data = data.replace(self._their_id, self._our_id, 1)
        return data.replace(self._their_model, self._our_model, 1)

    def _learn(self, data: bytes) -> bytes:
        chunk = decode_object(data)
        wanted = {**chunk, **self._ours}
        for colon in (b":", b": "):
            self._their_id = b'"id"' + colon + orjson.dumps(chunk.get("id"))
            self._our_id = b'"id"' + colon + orjson.dumps(wanted["id"])
            self._their_model = b'"model"' + colon + orjson.dumps(chunk.get("model"))
            self._our_model = b'"model"' + colon + orjson.dumps(wanted["model"])
            replaced = self._replaced(data)
            self._has_learned = decode_object(replaced) == wanted
            if self._has_learned:
                return replaced
        return orjson.dumps(wanted)
