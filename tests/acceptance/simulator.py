"""The simulator behind the scenes: its knobs, and what it knows it served."""

import time
from typing import Any

import httpx

START_SECONDS = 30.0
PAGE = 5000

Row = dict[str, Any]


class Simulator:
    """The control interface of a simulator process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < end, "the simulator did not start"
            time.sleep(0.05)

    def close(self) -> None:
        """Close the connection; the process is not ours."""
        self._client.close()

    def _answers(self) -> bool:
        try:
            return self._client.get("/_sim/knobs").is_success
        except httpx.TransportError:
            return False

    def reset(self) -> None:
        """Forget everything, the knobs included."""
        self._client.post("/_sim/reset").raise_for_status()

    def turn(self, **knobs: object) -> None:
        """Turn knobs; None puts one back to its default."""
        response = self._client.post("/_sim/knobs", json=knobs)
        assert response.is_success, response.text

    def knobs(self) -> Row:
        """Every knob as it stands; a counted fault shows what is left of it."""
        shown: Row = self._client.get("/_sim/knobs").raise_for_status().json()
        return shown

    def faults(self) -> dict[str, int]:
        """How often each fault has struck."""
        struck: dict[str, int] = self._client.get("/_sim/faults").raise_for_status().json()
        return struck

    def batches(self) -> list[Row]:
        """Every batch that was created, oldest first."""
        rows: list[Row] = self._client.get("/_sim/batches").raise_for_status().json()["rows"]
        return rows

    def lines(self) -> list[Row]:
        """Every call and line that was served, with its tokens."""
        rows: list[Row] = []
        after, more = 0, True
        while more:
            query = {"after": after, "limit": PAGE}
            page = self._client.get("/_sim/lines", params=query).raise_for_status().json()
            rows += page["rows"]
            after, more = page["next"], page["has_more"]
        return rows

    def embed(self, key: str, texts: list[str], dimensions: int) -> list[list[float]]:
        """The vectors of some texts, asked for directly with a key of the caller's."""
        response = self._client.post(
            "/v1/embeddings",
            json={"model": "text-embedding-3-small", "input": texts, "dimensions": dimensions},
            headers={"Authorization": f"Bearer {key}"},
        )
        return [row["embedding"] for row in response.raise_for_status().json()["data"]]
