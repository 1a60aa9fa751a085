//! Everything that is refused: where it is, what it is, how to mend it.

use std::fmt::Write as _;

use super::*;

/// A file below the root, and the one line that it leads to.
const SINGLE: &[(&str, &str)] = &[
    // Names.
    ("  timeout:\n    x: 1\n", "F:2: timeout is unknown; did you mean timeouts?"),
    (
        "  consensus:\n    election_timout_ms: 1\n",
        "F:3: consensus.election_timout_ms is unknown; did you mean election_timeout_ms?",
    ),
    (
        "  performance:\n    election_timeout_ms: 1\n",
        "F:3: performance.election_timeout_ms is unknown; did you mean \
         consensus.election_timeout_ms?",
    ),
    (
        "  tls:\n    cipher: x\n",
        "F:3: tls.cipher is unknown; known are certificate, key, authority",
    ),
    (
        "  node_id_file: x\n",
        "F:2: node_id_file is unknown; only secrets may be in files of their own; give node_id \
         itself",
    ),
    // Kinds.
    (
        "  performance:\n    batch_size: many\n",
        "F:3: performance.batch_size is \"many\"; give a whole number from 1 to 1000000",
    ),
    (
        "  performance:\n    batch_size: 1.5\n",
        "F:3: performance.batch_size is 1.5; give a whole number from 1 to 1000000",
    ),
    (
        "  performance:\n    batch_size: \"50\"\n",
        "F:3: performance.batch_size is \"50\"; give a whole number from 1 to 1000000",
    ),
    (
        "  performance:\n    batch_size: [50]\n",
        "F:3: performance.batch_size is a list; give a whole number from 1 to 1000000",
    ),
    ("  insecure: yes\n", "F:2: insecure is \"yes\"; give true or false"),
    ("  node_id: 7\n", "F:2: node_id is 7; give text; in quotes it is"),
    ("  node_id: \"\"\n", "F:2: node_id is \"\"; give text that is not empty"),
    ("  node_id: {a: 1}\n", "F:2: node_id is a section; give text that is not empty"),
    (
        "  timeouts: 5\n",
        "F:2: timeouts is a number, not a section; its keys are \
      default_transaction_timeout_seconds, prepare_phase_timeout_seconds, \
      commit_phase_timeout_seconds, lock_acquisition_timeout_seconds",
    ),
    (
        "  consensus:\n    cluster_nodes: a:1\n",
        "F:3: consensus.cluster_nodes is \"a:1\"; give a list of texts",
    ),
    (
        "  consensus:\n    cluster_nodes: [[a]]\n",
        "F:3: consensus.cluster_nodes has a list in it; give a list of texts",
    ),
    (
        "  consensus:\n    algorithm: rat\n",
        "F:3: consensus.algorithm is \"rat\"; did you mean raft?",
    ),
    (
        "  consensus:\n    algorithm: paxos\n",
        "F:3: consensus.algorithm is \"paxos\"; give one of raft, local",
    ),
    (
        "  performance:\n    batch_size:\n",
        "F:3: performance.batch_size is nothing; give a whole number from 1 to 1000000",
    ),
    // Bounds.
    (
        "  monitoring:\n    trace_sampling_rate: 1.5\n",
        "F:3: monitoring.trace_sampling_rate is 1.5; give a number from 0 to 1",
    ),
    (
        "  monitoring:\n    trace_sampling_rate: .nan\n",
        "F:3: monitoring.trace_sampling_rate is NaN; give a number from 0 to 1",
    ),
    (
        "  timeouts:\n    prepare_phase_timeout_seconds: 0\n",
        "F:3: timeouts.prepare_phase_timeout_seconds is 0; give a number from 0.001 to 31536000",
    ),
    // Rules.
    (
        "  consensus:\n    heartbeat_interval_ms: 5000\n",
        "F:3: consensus.heartbeat_interval_ms is 5000, and election_timeout_ms is 5000: a lost \
         heartbeat would lead to an election; give an election timeout of at least two \
         heartbeats, better five",
    ),
    (
        "  consensus:\n    election_timeout_ms: 1000\n",
        "F:3: consensus.election_timeout_ms is 1000, and heartbeat_interval_ms is 1000: a lost \
         heartbeat would lead to an election; give an election timeout of at least two \
         heartbeats, better five",
    ),
    (
        "  database:\n    connection_pool:\n      max_connections: 4\n",
        "F:4: database.connection_pool.max_connections is 4, and min_connections is 5; give a \
         least number that is not above the greatest",
    ),
    (
        "  database:\n    connection_string: mysql://h/d\n",
        "F:3: database.connection_string is a mysql:// address, which cannot be used; give \
         postgresql://user:password@host:5432/database",
    ),
    (
        "  consensus:\n    algorithm: raft\n",
        "F:3: consensus.algorithm is raft, and cluster_nodes names no node; name the nodes of the \
         cluster, or use local",
    ),
    (
        "  consensus:\n    cluster_nodes: [a]\n",
        "F:3: consensus.cluster_nodes has \"a\", which is no address of a node; write host:port \
         or id=host:port",
    ),
    (
        "  consensus:\n    cluster_nodes: [a=h:1, a=h:2]\n",
        "F:3: consensus.cluster_nodes has \"a=h:2\", whose id or address another one has; give \
         each node its own",
    ),
    (
        "  node_id: c\n  consensus:\n    cluster_nodes: [a=h:1, b=h:2]\n",
        "F:2: node_id is \"c\", which is none of consensus.cluster_nodes; give one of a, b, or \
         add it to the list of every node",
    ),
    (
        "  lock_manager:\n    backend: zookeeper\n",
        "F:3: lock_manager.backend is zookeeper, and no server is named; give \
         lock_manager.zookeeper.connection_string, such as zk1:2181,zk2:2181",
    ),
    (
        "  lock_manager:\n    backend: postgres\n",
        "F:3: lock_manager.backend is postgres, and no database is named; give \
         database.connection_string, or lock_manager.postgres.connection_string",
    ),
    (
        "  lock_manager:\n    backend: raft\n",
        "F:3: lock_manager.backend is raft, and there is no cluster; give \
         consensus.cluster_nodes, with consensus.algorithm raft",
    ),
    (
        "  lock_manager:\n    zookeeper: {user: u}\n",
        "F:3: lock_manager.zookeeper.user is given, and lock_manager.zookeeper.password is not; \
         give both, or neither",
    ),
    (
        "  event_bus:\n    backend: nats\n",
        "F:3: event_bus.backend is nats, and no server is named; give event_bus.url",
    ),
    (
        "  event_bus:\n    backend: journal\n  journal: 'memory:'\n",
        "F:3: event_bus.backend is journal, and the journal is no file; give a path for journal, \
         or use in_process or postgres",
    ),
    (
        "  tls:\n    key: k\n",
        "F:3: tls.key is given, and tls.certificate is not; give all three, or none",
    ),
    // The file's form.
    (
        "  cluster: a\n  cluster: b\n",
        "F:3: cluster stands twice, first in line 2; leave one of them out",
    ),
    (
        "  timeouts:\n    <<: {a: 1}\n",
        "F:3: has the merge key <<, which YAML 1.2 does not have; write the settings out",
    ),
    (
        "  cluster: !!binary aGk=\n",
        "F:2: cluster has the tag tag:yaml.org,2002:binary; leave the \
      tag out",
    ),
    (
        "  cluster: ${NO_SUCH}\n",
        "F:2: cluster needs the variable NO_SUCH, which the environment does not have; set it, \
         or write ${NO_SUCH:-default}",
    ),
    (
        "  secret_file: /no/such/file\n",
        "F:2: secret_file is \"/no/such/file\", which cannot be read: No such file or directory \
         (os error 2); give the path of a small text file that this process may read",
    ),
    (
        "  secret_file: /dev/zero\n",
        "F:2: secret_file is \"/dev/zero\", which has more than 65536 bytes; give the path of a \
         small text file that this process may read",
    ),
];

#[test]
fn each_mistake_is_told_with_its_line_and_its_mend() {
    for (text, line) in SINGLE {
        assert_eq!(told(&below_root(text)), [*line], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_rules_do_not_judge_what_could_not_be_read() {
    let text = below_root(
        "  consensus:\n    election_timeout_ms: soon\n    heartbeat_interval_ms: 9000\n  \
           speed: 1\n  monitoring:\n    trace_sampling_rate: 2\n",
    );
    let lines = told(&text);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("F:3: consensus.election_timeout_ms"));
    assert!(lines[1].starts_with("F:5: speed is unknown; known are database, consensus"));
    assert!(lines[2].starts_with("F:7: monitoring.trace_sampling_rate"));
}

#[test]
fn what_is_no_file_of_settings_is_said_so() {
    for (bytes, line) in [
        (&b""[..], "F: is empty; begin with coordination_service: and the sections below it"),
        (
            b"# only words\n",
            "F: is empty; begin with coordination_service: and the sections below it",
        ),
        (
            b"- a\n",
            "F:1: is a list, not a section; begin with coordination_service: and the \
           sections below it",
        ),
        (b"a: \xff\n", "F:1: is not UTF-8; save it as UTF-8"),
        (
            b"coordination_service:\n  cluster: a\n---\nb: 1\n",
            "F:3: has a second document; give one document in one file",
        ),
        (
            b"coordination_service:\ntimeouts: {}\n",
            "F:2: timeouts stands beside coordination_service, where nothing is read; move it \
             below \
          coordination_service, or begin its name with x- to keep it",
        ),
        (
            b"coordination_service:\n  ? [a]\n  : 1\n",
            "F:2: has a list or a section in the place of a key; quote a text that begins with [ \
             or {",
        ),
        (
            b"coordination_service: &a\n  x: *a\n",
            "F:2: has an alias inside of what it stands for; write the settings out",
        ),
    ] {
        let file = file_of(bytes);
        let sources = Sources { file: Some(file.path()), ..Sources::default() };
        let problems = Config::read(sources).expect_err("it is refused").to_string();
        let shown = problems.replace(&file.path().display().to_string(), "F");
        assert_eq!(shown, line);
    }
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    for (text, words) in [
        ("  timeouts:\n\t- x: 1\n", ["is no YAML", "use spaces"]),
        ("  cluster: \"open\n", ["is no YAML", "look at this line"]),
        ("  cluster: [a\n", ["is no YAML", "look at this line"]),
        ("  cluster: *nothing\n", ["is no YAML", "anchor"]),
    ] {
        let lines = told(&below_root(text));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("F:"), "{lines:?}");
        assert!(words.iter().all(|word| lines[0].contains(word)), "{lines:?}");
    }
}

#[test]
fn what_a_file_may_cost_is_bounded() {
    let mut bomb = String::from("x-0: &a0 [a, a, a, a, a, a, a, a, a, a]\n");
    for level in 1..10 {
        let inner = format!("*a{}, ", level - 1).repeat(10);
        writeln!(bomb, "x-{level}: &a{level} [{inner}]").expect("a String takes all");
    }
    assert!(told(&bomb)[0].contains("more than 10000 values"), "{:?}", told(&bomb));
    let deep = format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(!told(&deep)[0].contains("is unknown"), "{:?}", told(&deep));
    let indented: String =
        (0..200).flat_map(|level| [" ".repeat(level), "a:\n".to_owned()]).collect();
    assert!(told(&indented)[0].contains("nested more than 32 deep"), "{:?}", told(&indented));
    let long = format!("# {}\n", "x".repeat(300 << 10));
    assert!(told(&long)[0].contains("more than 262144 bytes"));
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_told_and_others_are_left_alone() {
    let text = below_root("  cluster: c\n");
    for (variable, line) in [
        ("UNANIMITY_CONSENSUS_ELECTION_TIMOUT_MS", "UNANIMITY_CONSENSUS_ELECTION_TIMEOUT_MS"),
        ("UNANIMITY_ELECTION_TIMEOUT_MS", "UNANIMITY_CONSENSUS_ELECTION_TIMEOUT_MS"),
        ("UNANIMITY_NODEID", "UNANIMITY_NODE_ID"),
    ] {
        let expected = format!("{variable}: is no setting's variable; did you mean {line}?");
        assert_eq!(told_in(&text, &[(variable, "1")]), [expected]);
    }
    for other in ["UNANIMITY_SERVICE_HOST", "UNANIMITY_PORT_7000_TCP", "UNANIMITY_SEED"] {
        read_in(&text, &[(other, "1")]).unwrap_or_else(|problems| panic!("{other}: {problems}"));
    }
    let wrong = told_in(&text, &[("UNANIMITY_PERFORMANCE_BATCH_SIZE", "s3cret")]);
    let line = "UNANIMITY_PERFORMANCE_BATCH_SIZE: performance.batch_size is what the environment \
                gives for it; give a whole number from 1 to 1000000";
    assert_eq!(wrong, [line]);
}

#[test]
fn a_mapping_is_blamed_as_code_would_name_it() {
    let inner = map(&[("prepare", Value::Int(1))]);
    let mapping = map(&[("timeouts", inner), ("speed", map(&[]))]);
    let sources = Sources { mapping: Some(&mapping), ..Sources::default() };
    let problems = Config::read(sources).unwrap_err().to_string();
    let mut lines = problems.lines();
    let first = "config['timeouts']['prepare'] is unknown; did you mean \
                 prepare_phase_timeout_seconds?";
    assert_eq!(lines.next(), Some(first));
    assert!(lines.next().unwrap().starts_with("config['speed'] is unknown; known are database"));
}
