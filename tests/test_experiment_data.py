"""What an experiment refuses before it trains, and how it adds up its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import small_config

from fedllm.errors import ConfigError
from fedllm.experiment import prepare_run
from fedllm.experiment.summary import seconds_by_stage
from fedllm.progress import Watcher


@pytest.mark.parametrize(
    ("federation", "expected"),
    [
        (
            {"clients_per_round": 4},
            r"federation.clients_per_round=4, but the data make 3 clients \(code, math, medical\)",
        ),
        (
            {"clients_per_round": None, "min_clients": 4},
            "federation.min_clients=4, but the data make 3 clients",
        ),
    ],
)
def test_a_round_of_more_clients_than_there_are_is_refused(tmp_path, federation, expected):
    with pytest.raises(ConfigError, match=expected):
        prepare_run(small_config(tmp_path, federation=federation), Watcher(quiet=True))


def test_a_rule_that_cannot_combine_the_cohort_is_refused_before_a_model_loads(tmp_path):
    config = small_config(
        tmp_path, method={"rule": {"name": "krum", "byzantine": 2}}, model={"name": "."}
    )
    with pytest.raises(ConfigError, match="krum"):
        prepare_run(config, Watcher(quiet=True))


def event(stage: str, seconds: float) -> dict:
    return {"event": "seconds", "stage": stage, "seconds": seconds}


START = {"event": "start"}


def test_a_start_that_was_killed_counts_what_its_stages_took():
    killed = [START, event("imports", 1.0), event("training", 9.0)]
    resumed = [START, event("imports", 1.0), event("training", 2.0), event("total", 5.0)]
    by_hand = [START, event("aggregation", 0.5)]
    seconds = seconds_by_stage([*killed, *by_hand, *resumed])
    assert seconds == {"imports": 2.0, "training": 11.0, "aggregation": 0.5, "total": 15.5}


@given(
    st.lists(
        st.tuples(st.sampled_from(["start", "training", "loading", "total"]), st.floats(0, 1e6))
    )
)
def test_no_stage_takes_longer_than_the_whole(parts):
    events = [START if stage == "start" else event(stage, s) for stage, s in parts]
    seconds = seconds_by_stage(events)
    total = seconds.pop("total")
    assert sum(seconds.values()) <= total + 0.02
