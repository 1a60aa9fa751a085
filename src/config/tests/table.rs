//! The table of keys itself, and what follows from it.

use std::collections::BTreeSet;

use super::super::{KEYS, Kind, json_schema, page_table};
use super::*;

#[test]
fn no_two_keys_share_a_name_a_section_or_a_variable() {
    let paths: BTreeSet<_> = KEYS.iter().map(|key| key.path).collect();
    let variables: BTreeSet<_> = KEYS.iter().map(super::super::Key::variable).collect();
    assert_eq!((paths.len(), variables.len()), (KEYS.len(), KEYS.len()));
    for key in KEYS {
        let section = format!("{}.", key.path);
        assert!(!paths.iter().any(|path| path.starts_with(&section)), "{} is both", key.path);
        // A file's name would be taken for the key, or the other way round.
        assert!(!paths.contains(format!("{}_file", key.path).as_str()));
    }
}

#[test]
fn every_default_is_one_that_its_key_takes() {
    for key in KEYS {
        let fits = match (key.default.value(), key.kind) {
            (Value::Null, _) => true,
            (Value::Bool(_), kind) => kind == Kind::Truth,
            (Value::Int(number), Kind::Whole(least, greatest)) => {
                (least..=greatest).contains(&number)
            }
            (Value::Int(number), Kind::Number(least, greatest)) => {
                (least..=greatest).contains(&f64::from(i32::try_from(number).unwrap()))
            }
            (Value::Float(number), Kind::Number(least, greatest)) => {
                (least..=greatest).contains(&number)
            }
            (Value::Text(text), Kind::Choice(words)) => words.contains(&text.as_str()),
            (Value::Text(text), kind) => kind == Kind::Text && !text.is_empty(),
            (Value::List(_), kind) => kind == Kind::Texts,
            _ => false,
        };
        assert!(fits, "{}", key.path);
    }
}

#[test]
fn the_original_designs_file_is_read_verbatim_and_its_numbers_are_the_defaults() {
    let config = read(DESIGN).expect("it is right");
    let empty = Config::read(Sources::default()).expect("defaults are right");
    let mut given = 0;
    for setting in config.settings() {
        if matches!(setting.origin, Origin::File { .. }) {
            given += 1;
            let default = setting.key.default.value();
            let is_place =
                matches!(default, Value::Null) || setting.key.path == "consensus.cluster_nodes";
            assert!(is_place || setting.value == default, "{}", setting.key.path);
            assert_eq!(is_place, value(&empty, setting.key.path) != setting.value);
        }
    }
    // As many as the design has.
    assert_eq!(given, 30);
    assert_eq!(value(&config, "lock_manager.zookeeper.lock_root_path"), "/memory_os/locks".into());
    assert_eq!(value(&config, "monitoring.trace_sampling_rate"), Value::Float(0.1));
    assert_eq!(value(&config, "consensus.cluster_nodes").as_list().map(<[_]>::len), Some(3));
}

#[test]
fn schema_and_page_name_every_key() {
    let (schema, page) = (json_schema(), page_table());
    for key in KEYS {
        let pointer = key.path.replace('.', "/properties/");
        let found = schema
            .pointer(&format!("/properties/coordination_service/properties/{pointer}"))
            .unwrap_or_else(|| panic!("{} is not in the schema", key.path));
        assert_eq!(found["description"], key.about);
        assert!(page.contains(key.about), "{}", key.path);
    }
}
