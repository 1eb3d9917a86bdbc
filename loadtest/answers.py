"""What an answer of the HTTP API says of its query: the record of it. Pure."""

from typing import Any

import orjson

from loadtest.records import Record


def read_answer(
    arrival: float,
    lateness: float,
    deadline: float,
    finish: float,
    status: int,
    body: bytes,
    label: int | None,
) -> Record:
    """Times in seconds of the run; ``label`` is the index of the right class, where it is known.

    Any status but 200 is a miss, named by the server's error code.
    """
    answer = _json_object(body)
    if status != 200:
        reason = str(answer.get("code") or f"http_{status}")
        return Record(arrival, deadline, None, dropped=reason, lateness=lateness, status=status)
    predictions = answer.get("predictions")
    best = predictions[0].get("index") if predictions else None
    return Record(
        arrival,
        deadline,
        finish,
        answer.get("subnet"),
        answer.get("accuracy"),
        lateness=lateness,
        correct=best == label if best is not None and label is not None else None,
        status=status,
        server_met=answer.get("deadline_met"),
    )


def _json_object(body: bytes) -> dict[str, Any]:
    """An empty one for a foreign server's answer in another form."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
