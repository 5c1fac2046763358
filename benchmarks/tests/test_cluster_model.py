"""benchmarks/cluster_model.py against runs that can be worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from cluster_model import Cluster, draw_costs, simulate, steady_rate

HOSTILE = Cluster(
    listing_seconds=0.001,
    driver_seconds=0.01,
    worker_seconds=0.03,
    handover_seconds=0.02,
    closing_seconds=0.002,
    held=2,
    reads=3,
    writes=5,
    read_bytes=1e6,
    written_bytes=2e6,
    operation_seconds=0.005,
    operation_latency=0.001,
    operations_at_once=2,
    bytes_per_second=1e9,
    launch_seconds=0.1,
    start_seconds=5,
    weight_bytes=1e9,
    workers_per_node=4,
    failures_per_hour=40,
    restart_seconds=20,
)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
def test_where_nothing_costs_anything_n_workers_are_n_times_as_fast(workers):
    run = simulate(Cluster(), workers, [2.0] * 12)
    assert run.seconds == 24.0 / workers
    assert run.efficiency == 1.0
    assert run.images_per_second == pytest.approx(0.5 * workers)


def test_an_image_more_than_the_workers_can_share_costs_a_whole_round():
    run = simulate(Cluster(), 4, [3.0] * 5)
    assert run.seconds == 6.0
    assert run.spent["idle"] == 9.0


def test_a_long_image_at_the_end_is_waited_for():
    assert simulate(Cluster(), 2, [1.0, 1.0, 1.0, 10.0]).seconds == 11.0


def test_the_driver_lets_no_more_images_pass_than_it_can_take():
    costs = [1.0] * 4000
    run = simulate(Cluster(driver_seconds=0.25), 100, costs)
    assert run.seconds == pytest.approx(1.0 + 4000 * 0.25)
    assert run.steady_rate == pytest.approx(4.0, rel=0.02)
    assert run.bottleneck.startswith("engine")


def test_few_workers_wait_for_the_driver_only_when_they_come_together():
    assert simulate(Cluster(driver_seconds=0.25), 1, [1.0] * 8).seconds == 8 * 1.25
    # Both end together: the second waits for the first once, and from then on they come at different times.
    assert simulate(Cluster(driver_seconds=0.25), 2, [1.0] * 4).seconds == 2 * 1.25 + 0.25


def test_start_listing_and_closing_do_not_shrink_with_more_workers():
    cluster = Cluster(listing_seconds=0.1, start_seconds=10, closing_seconds=0.05)
    assert simulate(cluster, 1, [1.0] * 20).seconds == pytest.approx(2 + 10 + 20 + 1)
    run = simulate(cluster, 4, [1.0] * 20)
    assert run.seconds == pytest.approx(2 + 10 + 5 + 1)
    assert run.spent == pytest.approx({"computing": 20, "starting": 4 * 12, "engine": 0, "files": 0, "idle": 0, "closing": 4})


def test_launches_go_one_after_the_other_and_weights_are_read_once_a_node():
    cluster = Cluster(launch_seconds=1, start_seconds=10, workers_per_node=2)
    assert simulate(cluster, 4, [5.0] * 4).seconds == 4 + 10 + 5
    reading = Cluster(weight_bytes=30, bytes_per_second=10, workers_per_node=2)
    assert simulate(reading, 4, [5.0] * 4).seconds == 2 * 3 + 5


def test_file_operations_queue_at_the_server_but_not_on_the_way():
    cluster = Cluster(reads=2, writes=1, operation_seconds=0.5)
    assert simulate(cluster, 1, [1.0] * 4).seconds == 4 * 2.5
    crowded = simulate(cluster, 50, [1.0] * 1000)
    assert crowded.seconds >= 1000 * 3 * 0.5
    assert crowded.bottleneck.startswith("files")
    assert simulate(Cluster(reads=2, operation_latency=0.5), 10, [1.0] * 20).seconds == 2 * 2.0
    assert simulate(Cluster(read_bytes=5, written_bytes=5, bytes_per_second=10), 1, [1.0] * 3).seconds == 3 * 2.0


def test_an_image_held_in_advance_hides_the_way_to_the_worker():
    assert simulate(Cluster(handover_seconds=1), 1, [1.0] * 10).seconds == 10 * 2
    assert simulate(Cluster(handover_seconds=1, held=2), 1, [1.0] * 10).seconds == 1 + 10


def test_what_the_engine_does_in_a_worker_adds_to_each_image():
    run = simulate(Cluster(worker_seconds=0.25, held=4), 2, [1.0] * 10)
    assert run.seconds == 5 * 1.25
    assert run.efficiency == 0.8


@pytest.mark.parametrize("seed", range(5))
def test_no_image_is_lost_or_doubled_when_nodes_die(seed):
    costs = draw_costs([0.5, 1.0, 4.0], 2.0, 700, seed, tail_share=0.02, tail_factor=10)
    run = simulate(HOSTILE, 13, costs, seed)
    assert sum(map(len, run.ends.values())) == 700
    assert run.tries > 700
    assert run.spent["lost"] > 0
    assert run.spent["computing"] == pytest.approx(sum(costs))


def test_every_second_of_every_worker_is_booked_once():
    run = simulate(HOSTILE, 13, draw_costs([1.0, 3.0], 2.0, 500, seed=1), seed=3)
    assert sum(run.spent.values()) == pytest.approx(13 * run.seconds)


def test_a_seed_gives_one_run():
    def run(seed):
        return simulate(HOSTILE, 9, draw_costs([1.0, 2.0], 1.0, 200, seed), seed)

    assert run(4) == run(4)
    assert run(4).seconds != run(5).seconds


def test_costs_are_drawn_with_the_given_mean_and_tail():
    costs = draw_costs([1.0, 3.0], 10.0, 20000, seed=0, tail_share=0.1, tail_factor=5)
    counts = Counter(costs)
    assert set(counts) == {5.0, 15.0, 25.0, 75.0}
    assert (counts[25.0] + counts[75.0]) / 20000 == pytest.approx(0.1, abs=0.01)


def test_the_steady_rate_leaves_out_start_and_end():
    assert steady_rate({"a": [5.0, 6.0, 7.0], "b": [9.0, 9.5], "c": [3.0], "d": []}) == 1.0 + 2.0
