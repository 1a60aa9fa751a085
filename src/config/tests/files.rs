//! Files that are read: substitution, secrets in files, and who wins.

use super::*;

#[test]
fn a_later_source_wins_and_every_origin_is_known() {
    let text = below_root("  timeouts:\n    prepare_phase_timeout_seconds: 1\n");
    let file = file_of(text.as_bytes());
    let environment = environment(&[
        ("UNANIMITY_TIMEOUTS_PREPARE_PHASE_TIMEOUT_SECONDS", "2"),
        ("UNANIMITY_TIMEOUTS_COMMIT_PHASE_TIMEOUT_SECONDS", "2.5"),
        ("UNANIMITY_CONSENSUS_CLUSTER_NODES", "a=h:1, b=h:2"),
        ("UNANIMITY_NODE_ID", ""),
    ]);
    let seconds = map(&[("commit_phase_timeout_seconds", Value::Int(3))]);
    let arguments =
        map(&[("timeouts", seconds), ("node_id", "b".into()), ("cluster", "${x}".into())]);
    let sources = Sources {
        file: Some(file.path()),
        environment: Some(&environment),
        arguments: Some(&arguments),
        mapping: None,
    };
    let config = Config::read(sources).unwrap();
    let of = |path: &str| {
        let setting = config.get(path).unwrap();
        (setting.value.clone(), setting.origin.to_string())
    };
    let name = file.path().display().to_string();
    let variable = "UNANIMITY_TIMEOUTS_PREPARE_PHASE_TIMEOUT_SECONDS".to_owned();
    assert_eq!(of("timeouts.prepare_phase_timeout_seconds"), (Value::Int(2), variable));
    assert_eq!(of("timeouts.commit_phase_timeout_seconds"), (Value::Int(3), "argument".to_owned()));
    assert_eq!(of("performance.batch_size"), (Value::Int(50), "default".to_owned()));
    assert_eq!(of("cluster"), ("${x}".into(), "argument".to_owned()));
    assert_eq!(of("node_id"), ("b".into(), "argument".to_owned()));
    let nodes = Value::List(vec!["a=h:1".into(), "b=h:2".into()]);
    assert_eq!(value(&config, "consensus.cluster_nodes"), nodes);
    let only = Sources { file: Some(file.path()), ..Sources::default() };
    let origin = &Config::read(only).unwrap();
    let origin = &origin.get("timeouts.prepare_phase_timeout_seconds").unwrap().origin;
    assert_eq!(*origin, Origin::File { name, line: 3 });
}

#[test]
fn variables_take_the_kind_of_their_key_and_never_become_other_settings() {
    let variables =
        [("SIZE", "7"), ("NAME", "12345"), ("TRICK", "x\n  node_id: evil"), ("ON", "false")];
    let text = below_root(
        "  performance: {batch_size: \"${SIZE}\", batch_timeout_ms: \"${NONE:-9}\"}\n  \
           cluster: ${NAME}\n  data_dir: ${TRICK}\n  insecure: ${ON}\n  \
           journal: $${NAME}-${SIZE}\n",
    );
    let config = read_in(&text, &variables).unwrap();
    assert_eq!(value(&config, "performance.batch_size"), Value::Int(7));
    assert_eq!(value(&config, "performance.batch_timeout_ms"), Value::Int(9));
    assert_eq!(value(&config, "cluster"), "12345".into());
    assert_eq!(value(&config, "data_dir"), "x\n  node_id: evil".into());
    assert_eq!(value(&config, "node_id"), Value::Null);
    assert_eq!(value(&config, "insecure"), Value::Bool(false));
    assert_eq!(value(&config, "journal"), "${NAME}-7".into());
}

#[test]
fn a_mapping_is_read_as_a_file_is() {
    let environment = environment(&[("N", "x")]);
    let inner = map(&[("journal", "${N}.db".into()), ("cluster", "c".into())]);
    for mapping in [inner.clone(), map(&[("coordination_service", inner)])] {
        let sources = Sources {
            mapping: Some(&mapping),
            environment: Some(&environment),
            ..Sources::default()
        };
        let config = Config::read(sources).unwrap();
        assert_eq!(value(&config, "journal"), "x.db".into());
        assert_eq!(config.get("cluster").unwrap().origin, Origin::Mapping);
    }
}

#[test]
fn a_secret_is_read_from_its_file_without_the_line_break_at_its_end() {
    let secret = file_of(b"0123456789abcdef\n");
    let path = secret.path().display().to_string();
    for (text, variables) in [
        (below_root(&format!("  secret_file: {path}\n")), vec![]),
        (below_root("  cluster: c\n"), vec![("UNANIMITY_SECRET_FILE", path.as_str())]),
        (below_root("  secret_file: ${HERE}\n"), vec![("HERE", path.as_str())]),
    ] {
        let config = read_in(&text, &variables).unwrap();
        let setting = config.get("secret").unwrap();
        assert_eq!(setting.value, "0123456789abcdef".into());
        assert_eq!(setting.through.as_deref(), Some(path.as_str()));
        assert_eq!(setting.shown(), "***".into());
        assert!(!format!("{config:?}").contains("0123456789"));
    }
}

#[test]
fn secrets_are_hidden_in_what_is_shown_and_in_every_problem() {
    let text = below_root(
        "  database:\n    connection_string: postgresql://u:hunter22@h/d\n  secret: hunter22\n  \
           node_id: [hunter22]\n  journal: {hunter22: 1}\n",
    );
    let lines = told(&text).join("\n");
    assert!(lines.contains("F:4: secret has 8 bytes"), "{lines}");
    let without_key = lines.replace("journal", "");
    assert!(!without_key.contains("hunter22"), "{lines}");
    let config = read(DESIGN).unwrap();
    let shown = config.get("database.connection_string").unwrap().shown();
    assert_eq!(shown, "postgresql://user:***@localhost:5432/memory_os".into());
}

#[test]
fn anchors_stand_for_what_they_name() {
    let text = "x-long: &long 77\ncoordination_service:\n  timeouts:\n    \
                prepare_phase_timeout_seconds: *long\n    commit_phase_timeout_seconds: *long\n";
    let config = read(text).unwrap();
    assert_eq!(value(&config, "timeouts.prepare_phase_timeout_seconds"), Value::Int(77));
    assert_eq!(value(&config, "timeouts.commit_phase_timeout_seconds"), Value::Int(77));
}

#[test]
fn an_empty_value_or_section_is_one_that_was_left_out() {
    let text = below_root("  timeouts:\n  node_id:\n  retention:\n    finished_days: null\n");
    let config = read(&text).unwrap();
    assert_eq!(config.get("node_id").unwrap().origin, Origin::Default);
    // But here it says something.
    assert_eq!(value(&config, "retention.finished_days"), Value::Null);
    let left_out = read(&below_root("  cluster: c\n")).unwrap();
    assert_eq!(value(&left_out, "retention.finished_days"), Value::Int(30));
}
