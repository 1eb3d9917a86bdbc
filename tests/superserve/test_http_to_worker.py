"""The server over the real dispatcher and scheduler, with emulated workers behind them."""

import asyncio
import contextlib

import httpx
import pytest

from policies import load_policy
from superserve.config import Config
from superserve.dispatcher import Dispatcher
from superserve.emulated import EmulatedPool
from superserve.scheduler import Scheduler
from superserve.server.app import create_app
from tests.superserve.fakes import CLASSIFY, PROFILE, model, png, smooth_jpeg


@contextlib.asynccontextmanager
async def serving(slots=4):
    profiles = {"digits": PROFILE}
    make_policy = load_policy("default")
    pool = EmulatedPool(["w0"], (model(),), profiles, slots=slots)
    scheduler = Scheduler({("digits", "emulated"): PROFILE}, make_policy)
    dispatcher = Dispatcher(scheduler, pool, make_policy=make_policy, policy_name="default")
    await dispatcher.start(await pool.start(), credits=1)
    app = create_app(dispatcher, Config(slots=slots), profiles=profiles)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http, pool
    await dispatcher.stop(5.0)


def scenario(main):
    async def run():
        async with serving() as (http, pool):
            await main(http, pool)

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.parametrize("image", [png(), smooth_jpeg((300, 200))])
def test_an_image_is_answered_by_a_subnet_of_the_profile(image):
    async def main(http, _):
        answer = (await http.post("/v1/classify?slo_ms=5000", content=image)).json()
        assert answer["subnet"] in PROFILE.subnets
        assert answer["accuracy"] == PROFILE.accuracy(answer["subnet"])
        assert answer["deadline_met"] is True

    scenario(main)


def test_a_floor_on_accuracy_is_kept():
    async def main(http, _):
        url = "/v1/classify?slo_ms=5000&min_accuracy=97.5"
        assert (await http.post(url, content=png())).json()["subnet"] == "large"

    scenario(main)


def test_a_deadline_that_no_subnet_can_meet_is_a_504_and_counted():
    async def main(http, _):
        response = await http.post("/v1/classify?slo_ms=0.001", content=png())
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        metrics = (await http.get("/v1/stats")).json()["metrics"]
        assert (metrics["arrived"], metrics["dropped"]) == (1, {"expired": 1})

    scenario(main)


def test_every_query_of_a_burst_is_answered_and_every_slot_free_afterwards():
    async def main(http, pool):
        posts = (http.post("/v1/classify?slo_ms=5000", content=png(i)) for i in range(40))
        statuses = [response.status_code for response in await asyncio.gather(*posts)]
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) >= 4
        assert pool.slots.taken == 0

    scenario(main)


def test_bad_images_leave_no_slot_taken():
    async def main(http, pool):
        for image in (b"what", png()[:40], smooth_jpeg((300, 200))[:-50]):
            assert (await http.post(CLASSIFY, content=image)).status_code in {400, 415}
        answer = await http.post("/v1/classify?slo_ms=5000", content=png())
        assert answer.status_code == 200
        assert pool.slots.taken == 0

    scenario(main)


def test_the_policy_is_changed_under_the_running_server():
    async def main(http, _):
        change = {"policy": "fixed", "options": {"subnet": "smallest"}}
        assert (await http.put("/v1/policy", json=change)).status_code == 200
        answer = (await http.post("/v1/classify?slo_ms=5000", content=png())).json()
        assert answer["subnet"] == "small"

    scenario(main)
