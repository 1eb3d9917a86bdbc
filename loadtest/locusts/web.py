"""Locust's web UI with what matters here: two tables in tabs of their own, and charts below."""

from pathlib import Path

import orjson
from flask import Flask, Response, request
from locust.web import WebUI

from loadtest.locusts.conductor import Conductor

CHARTS = Path(__file__).with_name("charts.js")
TABS = {
    "serving": (
        "SLO and accuracy",
        {
            "name": "Run", "slo": "SLO", "queries": "Queries", "attainment": "SLO attainment",
            "profiled": "Accuracy served, profiled", "measured": "Accuracy measured",
            "median": "Latency p50", "slow": "Latency p99", "lateness": "Sender late by, p99",
        },
    ),
    "subnets": (
        "Subnets",
        {
            "name": "Subnet", "answers": "Answers", "share": "Share",
            "attainment": "In time", "profiled": "Accuracy profiled",
            "measured": "Accuracy measured",
        },
    ),
}  # fmt: skip


def extend_web_ui(web_ui: WebUI, conductor: Conductor) -> None:
    """Locust 2's own hooks carry the tabs; its charts cannot be added to, so ours stand below."""
    web_ui.template_args["extended_tabs"] = [
        {"title": title, "key": key} for key, (title, _) in TABS.items()
    ]
    web_ui.template_args["extended_tables"] = [
        {"key": key, "structure": [{"key": k, "title": t} for k, t in columns.items()]}
        for key, (_, columns) in TABS.items()
    ]
    app = web_ui.app
    assert isinstance(app, Flask)

    @app.after_request
    def add(response: Response) -> Response:
        if request.endpoint == "locust.request_stats":
            rows = {
                "serving": conductor.tally.table(conductor.slo, conductor.state),
                "subnets": conductor.tally.subnets(),
            }
            extended = [{"key": key, "data": rows[key]} for key in TABS]
            response.set_data(orjson.dumps({**response.get_json(), "extended_stats": extended}))
        elif request.endpoint == "locust.index" and response.mimetype == "text/html":
            page = response.get_data(as_text=True)
            ours = '<section id="serving"></section><script src="./serving.js"></script></body>'
            response.set_data(page.replace("</body>", ours))
        return response

    @app.route(f"{_base(web_ui)}/serving.js")
    @web_ui.auth_required_if_enabled
    def script() -> Response:
        return Response(CHARTS.read_text(), mimetype="application/javascript")

    @app.route(f"{_base(web_ui)}/serving.json")
    @web_ui.auth_required_if_enabled
    def numbers() -> Response:
        found = {"state": conductor.state, "timeline": conductor.tally.timeline()}
        return Response(orjson.dumps(found), mimetype="application/json")


def _base(web_ui: WebUI) -> str:
    options = web_ui.environment.parsed_options
    return str(getattr(options, "web_base_path", "") or "")
