"""CoordinationConfig as people hold it: reading, attributes, origins, secrets, refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, request
from unanimity import (
    ConfigError,
    CoordinationConfig,
    CoordinationService,
    LocalLockManager,
    RaftConsensusService,
)

# The original design's own file, verbatim.
DESIGN = """\
# Coordination service configuration
coordination_service:
  # Database configuration
  database:
    connection_string: "postgresql://user:pass@localhost:5432/memory_os"
    connection_pool:
      min_connections: 5
      max_connections: 20
      idle_timeout_seconds: 300

  # Consensus configuration
  consensus:
    algorithm: "raft"
    cluster_nodes:
      - "coordination-node-1:7000"
      - "coordination-node-2:7000"
      - "coordination-node-3:7000"
    election_timeout_ms: 5000
    heartbeat_interval_ms: 1000
    log_compaction_threshold: 10000

  # Lock manager configuration
  lock_manager:
    backend: "zookeeper"
    zookeeper:
      connection_string: "zk1:2181,zk2:2181,zk3:2181"
      session_timeout_ms: 30000
      lock_root_path: "/memory_os/locks"

    deadlock_detection:
      enabled: true
      detection_interval_seconds: 10
      max_wait_time_seconds: 300

  # Transaction timeout configuration
  timeouts:
    default_transaction_timeout_seconds: 300
    prepare_phase_timeout_seconds: 30
    commit_phase_timeout_seconds: 60
    lock_acquisition_timeout_seconds: 30

  # Performance tuning
  performance:
    max_concurrent_coordinations: 100
    coordination_worker_threads: 20
    batch_size: 50
    batch_timeout_ms: 100

  # Monitoring configuration
  monitoring:
    metrics_enabled: true
    distributed_tracing_enabled: true
    trace_sampling_rate: 0.1

    alerts:
      high_failure_rate_threshold: 0.05
      high_latency_threshold_ms: 5000
      deadlock_rate_threshold_per_hour: 10
"""


@pytest.fixture
def design(tmp_path: Path) -> Path:
    path = tmp_path / "design.yaml"
    path.write_text(DESIGN)
    return path


def read(path: Path, **environment: str) -> CoordinationConfig:
    return CoordinationConfig.from_yaml(path, environment=environment)


# ---- values ----------------------------------------------------------------------------------


def test_every_value_of_the_original_designs_file_is_where_it_should_be(design: Path) -> None:
    config = read(design)
    assert config.database.connection_string == "postgresql://user:pass@localhost:5432/memory_os"
    pool = config.database.connection_pool
    assert (pool.min_connections, pool.max_connections, pool.idle_timeout_seconds) == (5, 20, 300)
    consensus = config.consensus
    assert consensus.algorithm == "raft"
    assert consensus.cluster_nodes == [f"coordination-node-{number}:7000" for number in (1, 2, 3)]
    assert (consensus.election_timeout_ms, consensus.heartbeat_interval_ms) == (5000, 1000)
    assert consensus.log_compaction_threshold == 10000
    locks = config.lock_manager
    assert locks.backend == "zookeeper"
    assert locks.zookeeper.connection_string == "zk1:2181,zk2:2181,zk3:2181"
    assert locks.zookeeper.session_timeout_ms == 30000
    assert locks.zookeeper.lock_root_path == "/memory_os/locks"
    detection = locks.deadlock_detection
    assert detection.enabled is True
    assert (detection.detection_interval_seconds, detection.max_wait_time_seconds) == (10, 300)
    timeouts = config.timeouts
    assert timeouts.default_transaction_timeout_seconds == 300
    assert timeouts.prepare_phase_timeout_seconds == 30
    assert timeouts.commit_phase_timeout_seconds == 60
    assert timeouts.lock_acquisition_timeout_seconds == 30
    performance = config.performance
    assert performance.max_concurrent_coordinations == 100
    assert performance.coordination_worker_threads == 20
    assert (performance.batch_size, performance.batch_timeout_ms) == (50, 100)
    monitoring = config.monitoring
    assert monitoring.metrics_enabled is monitoring.distributed_tracing_enabled is True
    assert monitoring.trace_sampling_rate == 0.1
    alerts = monitoring.alerts
    assert alerts.high_failure_rate_threshold == 0.05
    assert alerts.high_latency_threshold_ms == 5000
    assert alerts.deadlock_rate_threshold_per_hour == 10


def test_a_mapping_gives_the_same_as_a_file_and_comes_back_as_it_went_in(design: Path) -> None:
    config = read(design)
    mapping = config.to_mapping(masked=False)
    again = CoordinationConfig.from_mapping(mapping, environment={})
    assert again == config and again.to_mapping(masked=False) == mapping
    inner = CoordinationConfig.from_mapping(mapping["coordination_service"], environment={})
    assert inner == config
    assert CoordinationConfig.from_mapping({}, environment={}) != config


def test_paths_and_empty_sections_may_be_in_a_mapping(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "timeouts": {}, "node_id": None}
    config = CoordinationConfig.from_mapping(given, environment={})
    assert config.data_dir == str(tmp_path) and config.node_id is None


def test_what_is_given_later_wins_and_its_origin_is_known(
    design: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNANIMITY_TIMEOUTS_PREPARE_PHASE_TIMEOUT_SECONDS", "7")
    monkeypatch.setenv("UNANIMITY_TIMEOUTS_COMMIT_PHASE_TIMEOUT_SECONDS", "8")
    arguments = {"timeouts": {"commit_phase_timeout_seconds": 9}}
    config = CoordinationConfig.from_yaml(design, arguments=arguments)
    timeouts = config.timeouts
    assert (timeouts.prepare_phase_timeout_seconds, timeouts.commit_phase_timeout_seconds) == (7, 9)
    origins = {setting.key: setting.origin for setting in config.settings()}
    variable = "UNANIMITY_TIMEOUTS_PREPARE_PHASE_TIMEOUT_SECONDS"
    assert origins["timeouts.prepare_phase_timeout_seconds"] == variable
    assert origins["timeouts.commit_phase_timeout_seconds"] == "argument"
    assert origins["performance.batch_size"] == f"{design}:46"
    assert origins["recovery.orphan_interval_seconds"] == "default"


def test_it_cannot_be_changed_and_says_what_it_has(design: Path) -> None:
    config = read(design)
    with pytest.raises(AttributeError, match="does not change"):
        config.timeouts.prepare_phase_timeout_seconds = 5
    with pytest.raises(AttributeError, match="does not change"):
        del config.timeouts
    with pytest.raises(AttributeError, match="known are default_transaction"):
        _ = config.timeouts.prepare
    assert {"timeouts", "consensus", "from_yaml"} <= set(dir(config))
    assert list(config.consensus)[:2] == ["algorithm", "cluster_nodes"]
    with pytest.raises(TypeError):
        hash(config)


def test_it_survives_pickling(design: Path) -> None:
    config = read(design)
    assert pickle.loads(pickle.dumps(config)) == config
    assert pickle.loads(pickle.dumps(config.consensus)) == config.consensus
    with pytest.raises(ConfigError) as caught:
        CoordinationConfig.from_mapping({"speed": 1}, environment={})
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems and str(again) == str(caught.value)


# ---- secrets ---------------------------------------------------------------------------------

SECRETS = {
    "secret": "hunter2-hunter2-hunter2",
    "journal": "postgresql://me:hunter2@h/d",
    "database": {"connection_string": "host=h password=hunter2"},
    "lock_manager": {
        "zookeeper": {"connection_string": "zk:1", "user": "u", "password": "hunter2"},
        "postgres": {"connection_string": "postgresql://me:hunter2@h/d"},
    },
    "event_bus": {"backend": "nats", "url": "nats://hunter2@h:4222"},
}


def test_secrets_are_in_nothing_that_is_printed(caplog: pytest.LogCaptureFixture) -> None:
    config = CoordinationConfig.from_mapping(SECRETS, environment={})
    logging.getLogger("test").warning("%s %r", config, config.lock_manager)
    shown = [
        repr(config),
        str(config),
        f"{config} {config.lock_manager.zookeeper} {config.database}",
        json.dumps(config.to_mapping()),
        repr(config.settings()),
        caplog.text,
    ]
    assert all("hunter2" not in text and "***" in text for text in shown)
    assert config.secret == SECRETS["secret"]
    assert config.to_mapping(masked=False)["coordination_service"]["secret"] == SECRETS["secret"]


@pytest.mark.parametrize(
    "mapping",
    [
        {"secret": "hunter2"},
        {"secret": ["hunter2"]},
        {"secret": b"hunter2"},
        {"database": {"connection_string": 7, "connection_pool": "postgresql://a:hunter2@b/c"}},
        {"consensus": {"cluster_nodes": ["http://a:hunter2@h:1/x"]}},
        {"consensus": {"algorithm": "postgresql://a:hunter2@h/d"}},
        {"performance": {"batch_size": "${PASSWORD}"}},
        {"insecure": "${PASSWORD}"},
        {"event_bus": {"backend": "${PASSWORD}"}},
    ],
)
def test_secrets_are_in_no_error(mapping: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        CoordinationConfig.from_mapping(mapping, environment={"PASSWORD": "hunter2"})
    assert "hunter2" not in f"{caught.value} {caught.value.problems}"


# ---- refusals --------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_at_once_with_path_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "coordination_service:\n  consensus:\n    heartbeat_interval_ms: 9000\n"
        "  monitoring:\n    trace_sampling_rate: 7\n  timeout: {}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read(path)
    found = [(problem.where, problem.line, problem.key) for problem in caught.value.problems]
    assert sorted(found, key=str) == sorted(
        [
            (str(path), 3, "consensus.heartbeat_interval_ms"),
            (str(path), 5, "monitoring.trace_sampling_rate"),
            (str(path), 6, "timeout"),
        ],
        key=str,
    )
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{path}:") for line in lines)
    assert "did you mean timeouts?" in str(caught.value)
    assert (caught.value.code, caught.value.retryable) == ("config.invalid", False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"coordination_service: [\n", "is no YAML"),
        (b"a: \xff", "is not UTF-8"),
        (b"coordination_service:\n\ttimeouts: {}\n", "use spaces"),
        (b"coordination_service:\n  cluster: a\n  cluster: b\n", "stands twice"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_arguments_of_another_type_are_refused(design: Path) -> None:
    with pytest.raises(TypeError, match="path is a int"):
        CoordinationConfig.from_yaml(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="config is a list"):
        CoordinationConfig.from_mapping([])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is a set"):
        CoordinationConfig.from_mapping({"timeouts": {1, 2}})
    with pytest.raises(TypeError, match="config is a int"):
        CoordinationService.from_config(7, {})  # type: ignore[arg-type]


# ---- the schema ------------------------------------------------------------------------------


def test_the_schema_has_every_setting_with_its_default() -> None:
    schema = CoordinationConfig.json_schema()
    config = CoordinationConfig.from_mapping({}, environment={})
    for setting in config.settings():
        found = schema["properties"]["coordination_service"]
        for name in setting.key.split("."):
            assert found["additionalProperties"] is False
            found = found["properties"][name]
        assert found.get("default") == setting.value
        assert found["description"]


# ---- the service -----------------------------------------------------------------------------


def test_a_service_is_made_of_a_file_a_mapping_or_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"coordination_service:\n  journal: {tmp_path}/one.db\n")
    given = {"journal": str(tmp_path / "two.db")}

    async def scenario() -> None:
        for config in (path, str(path), given, CoordinationConfig.from_mapping(given)):
            ledger = Ledger("left")
            async with CoordinationService.from_config(config, {"left": ledger}) as service:
                identity = f"t{id(config)}"
                assert (await service.coordinate_transaction(request(identity, "left"))).success
                assert service.config.performance.batch_size == 50

    asyncio.run(scenario())
    assert (tmp_path / "one.db").exists() and (tmp_path / "two.db").exists()


def test_overrides_are_settings_or_the_constructors_own_objects(
    design: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNANIMITY_NODE_ID", "coordination-node-2:7000")
    locks = LocalLockManager()
    service = CoordinationService.from_config(
        design,
        {},
        lock_manager=locks,
        secret="0123456789abcdef",
        timeouts={"prepare_phase_timeout_seconds": 3},
        event_bus={"backend": "in_process"},
    )
    assert service.lock_manager is locks
    assert isinstance(service.consensus, RaftConsensusService)
    assert service.consensus.node_id == "coordination-node-2:7000"
    assert service.config.timeouts.prepare_phase_timeout_seconds == 3
    assert service.config.timeouts.commit_phase_timeout_seconds == 60
    assert service.event_bus is not None
    again = CoordinationService.from_config(
        service.config, {}, cluster="a${b}c", lock_manager=locks
    )
    assert again.config.cluster == "a${b}c"
    once_more = CoordinationService.from_config(again.config, {}, lock_manager=locks, insecure=True)
    assert once_more.config.cluster == "a${b}c"
    with pytest.raises(ConfigError, match="lock_manger is unknown; did you mean lock_manager"):
        CoordinationService.from_config(design, {}, lock_manger="local")


def test_what_a_configuration_made_is_closed_with_the_service_and_what_was_given_is_not(
    tmp_path: Path,
) -> None:
    detection = {"deadlock_detection": {"enabled": False}}
    settings = {"journal": "memory:", "lock_manager": detection}

    async def scenario() -> None:
        service = CoordinationService.from_config(settings, {})
        async with service:
            made = service.lock_manager
            assert isinstance(made, LocalLockManager)
        assert "closed" in repr(made)
        async with LocalLockManager() as given:
            async with CoordinationService.from_config(settings, {}, lock_manager=given):
                pass
            assert "open" in repr(given)
        unused = CoordinationService.from_config(settings, {})
        await unused.close()
        assert "closed" in repr(unused.lock_manager)

    asyncio.run(scenario())
