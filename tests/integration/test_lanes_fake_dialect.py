"""The provider in memory keeps the promises that the real dialects keep over HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from gateway.net.http import HttpClients
from gateway.providers.dialect import (
    Ambiguous,
    BatchReport,
    BatchState,
    Broken,
    Credential,
    Dialect,
    LineOutcome,
    LineResult,
    Rejected,
)
from tests.contract.account import CHAT, Account, body
from tests.contract.simulator_process import SimulatorProcess
from tests.integration.fake_dialect import FakeDialect

TEXTS = [f"question {number}" for number in range(5)]


class Party(Protocol):
    """What `Account` offers over the real dialects, and `FakeAccount` over the one in memory."""

    dialect: Dialect
    credential: Credential

    def create(self, texts: list[str], batch_ref: str = ...) -> BatchReport: ...

    def ended(self, external_id: str) -> BatchReport: ...

    def listed(self) -> list[BatchReport]: ...

    def results(self, report: BatchReport) -> dict[str, LineResult]: ...

    def lose_the_next_answer_to_a_creation(self) -> None: ...


class RealAccount(Account):
    """A real dialect with a key at the simulator."""

    def lose_the_next_answer_to_a_creation(self) -> None:
        self.simulator.turn(create_drop_after={"count": 1})


class FakeAccount:
    """The dialect in memory, used as a real one is."""

    def __init__(self, keeps_metadata: bool, folder: Path) -> None:
        self.fake = FakeDialect(keeps_metadata=keeps_metadata)
        self.dialect: Dialect = self.fake
        self.credential = Credential("fake", "house", "sk-fake", "http://provider.invalid")
        self.folder = folder
        self.spool = folder / "spool"

    def create(self, texts: list[str], batch_ref: str = "pbatch_1") -> BatchReport:
        framing = self.dialect.framing
        lines = [
            self.dialect.encode_line(f"job-{number}", CHAT, "model", body(text))
            for number, text in enumerate(texts)
        ]
        self.spool.write_bytes(framing.opening + framing.separator.join(lines) + framing.closing)
        file_id = self.dialect.upload(self.credential, self.spool, f"{batch_ref}.jsonl")
        return self.dialect.create(self.credential, CHAT, batch_ref, file_id, self.spool)

    def ended(self, external_id: str) -> BatchReport:
        self.fake.made[external_id].end()
        report = self.dialect.get_batch(self.credential, external_id)
        assert report is not None
        return report

    def listed(self) -> list[BatchReport]:
        since = datetime.now(UTC) - timedelta(hours=1)
        return list(self.dialect.list_batches(self.credential, since))

    def results(self, report: BatchReport) -> dict[str, LineResult]:
        results = {}
        for number, file in enumerate(report.result_files):
            path = self.folder / f"results-{number}"
            self.dialect.download(self.credential, file, path)
            for line in path.read_bytes().splitlines():
                result = self.dialect.parse_line(line)
                results[result.custom_id] = result
        return results

    def lose_the_next_answer_to_a_creation(self) -> None:
        self.fake.fail("create", Ambiguous("lost"), after=True)


@pytest.fixture(params=["fake with names", "fake without names", "openai", "anthropic"])
def party(
    request: pytest.FixtureRequest, provider: SimulatorProcess, tmp_path: Path
) -> Iterator[Party]:
    if request.param.startswith("fake"):
        yield FakeAccount(request.param == "fake with names", tmp_path)
        return
    http = HttpClients()
    yield RealAccount(request.param, provider, http, tmp_path)
    http.close()


def test_a_batch_answers_every_line_under_its_own_id(party: Party) -> None:
    created = party.create(TEXTS)
    assert created.state in {BatchState.VALIDATING, BatchState.RUNNING}
    ended = party.ended(created.external_id)
    assert (ended.state, ended.request_count) == (BatchState.ENDED, len(TEXTS))
    results = party.results(ended)
    assert set(results) == {f"job-{number}" for number in range(len(TEXTS))}
    for result in results.values():
        assert result.outcome is LineOutcome.SUCCEEDED
        assert result.usage is not None
        assert result.body is not None
        assert result.body["choices"][0]["message"]["content"]


def test_a_batch_is_listed_under_its_name_where_names_are_kept(party: Party) -> None:
    first = party.create(TEXTS, "pbatch_1")
    second = party.create(TEXTS, "pbatch_2")
    listed = party.listed()
    assert [report.external_id for report in listed] == [second.external_id, first.external_id]
    names = [report.batch_ref for report in listed]
    assert names == (["pbatch_2", "pbatch_1"] if party.dialect.keeps_metadata else [None, None])


def test_an_unknown_batch_is_none_and_an_unknown_file_rejected(
    party: Party, tmp_path: Path
) -> None:
    assert party.dialect.get_batch(party.credential, "no-such-batch") is None
    with pytest.raises(Rejected) as caught:
        party.dialect.download(party.credential, "no-such-file", tmp_path / "out")
    assert caught.value.status == 404
    assert not (tmp_path / "out").exists()


def test_a_creation_whose_answer_is_lost_is_ambiguous_and_listed(party: Party) -> None:
    party.lose_the_next_answer_to_a_creation()
    with pytest.raises(Ambiguous):
        party.create(TEXTS)
    assert len(party.listed()) == 1


def test_an_upload_is_found_by_its_name_where_there_are_uploads(
    party: Party, tmp_path: Path
) -> None:
    spool = tmp_path / "upload"
    spool.write_bytes(b"{}\n")
    uploaded = party.dialect.upload(party.credential, spool, "offpeak-1.jsonl")
    assert party.dialect.find_upload(party.credential, "offpeak-1.jsonl") == uploaded
    assert party.dialect.find_upload(party.credential, "offpeak-2.jsonl") is None
    if uploaded is not None:
        for _ in range(2):
            party.dialect.delete_file(party.credential, uploaded)
    assert party.dialect.find_upload(party.credential, "offpeak-1.jsonl") is None


def test_a_batch_that_is_over_may_be_cancelled_to_no_effect(party: Party) -> None:
    created = party.create(TEXTS)
    party.ended(created.external_id)
    party.dialect.cancel_batch(party.credential, created.external_id)
    (report,) = party.listed()
    assert report.state is BatchState.ENDED


@pytest.mark.parametrize("line", [b"{not json", b"[]", b"{}", b'{"custom_id":1}', b"\xff"])
def test_a_line_that_makes_no_sense_is_broken(party: Party, line: bytes) -> None:
    with pytest.raises(Broken):
        party.dialect.parse_line(line)
