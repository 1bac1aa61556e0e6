//! Random transactions, failures and crashes against a map of keys.

use super::*;
use proptest::prelude::*;

/// The store as a map from leaf keys to values; directories are implied.
type Model = BTreeMap<String, String>;

#[derive(Debug, Clone)]
enum Change {
    Put(String, String),
    Append(String, String),
    Remove(String),
}

fn below(model: &Model, key: &str) -> Vec<String> {
    let prefix = format!("{key}.");
    model.keys().filter(|other| other.starts_with(&prefix)).cloned().collect()
}

fn store_value(model: &mut Model, key: &str, value: String) {
    for (at, _) in key.match_indices('.') {
        model.remove(&key[..at]);
    }
    for other in below(model, key) {
        model.remove(&other);
    }
    model.insert(key.to_string(), value);
}

/// Empty directories are kept out of the model by never asking for what is not a leaf.
fn apply(model: &mut Model, changes: &[Change], dirs: &mut Vec<String>) -> bool {
    for change in changes {
        match change {
            Change::Put(key, value) => store_value(model, key, value.clone()),
            Change::Append(key, value) => {
                if !below(model, key).is_empty() || dirs.contains(key) {
                    return false;
                }
                let old = model.get(key).cloned().unwrap_or_default();
                store_value(model, key, old + value);
            }
            Change::Remove(key) => {
                for other in below(model, key) {
                    model.remove(&other);
                }
                model.remove(key);
                dirs.retain(|dir| dir != key && !dir.starts_with(&format!("{key}.")));
            }
        }
        // Directories stay when their last key goes.
        match change {
            Change::Put(key, _) | Change::Append(key, _) => {
                dirs.retain(|dir| dir != key && !dir.starts_with(&format!("{key}.")));
                dirs.extend(key.match_indices('.').map(|(at, _)| key[..at].to_string()));
            }
            Change::Remove(_) => {}
        }
    }
    true
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Change>, u32),
    /// The store answers its oldest request, or fails it.
    Serve(bool),
    Crash,
}

fn change() -> impl Strategy<Value = Change> {
    let key = proptest::collection::vec("[abc]", 1..4).prop_map(|names| names.join("."));
    let value = prop_oneof!["[a-z]{0,4}", "[a-z]{60,80}"];
    (0..5u8, key, value).prop_map(|(kind, key, value)| match kind {
        0 | 1 => Change::Put(key, value),
        2 | 3 => Change::Append(key, value),
        _ => Change::Remove(key),
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (proptest::collection::vec(change(), 0..5), prop_oneof![3 => Just(0u32), 1 => Just(1)])
            .prop_map(|(changes, flags)| Step::Commit(changes, flags)),
        4 => Just(Step::Serve(true)),
        1 => Just(Step::Serve(false)),
        1 => Just(Step::Crash),
    ]
}

fn dump(store: &mut Store, rig: &mut Rig<KvsService>, key: &str, model: &mut Model) {
    let Ok(Treeobj::Dir(entries)) = lookup_flags(store, rig, key, 1) else {
        let value = lookup(store, rig, key).unwrap();
        model.insert(key.to_string(), value);
        return;
    };
    for name in entries.into_keys() {
        let child = if key == "." { name } else { format!("{key}.{name}") };
        dump(store, rig, &child, model);
    }
}

struct World {
    store: Store,
    rig: Rig<KvsService>,
    /// Sent and not answered, in order.
    waiting: Vec<(u32, Vec<Change>)>,
    model: Model,
    dirs: Vec<String>,
}

impl World {
    /// Answers must come in the order of the commits, and say what the model says.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        while let Some(message) = self.rig.responses.front() {
            let tag = message.matchtag();
            let (expected, changes) = self.waiting.remove(0);
            prop_assert_eq!(tag, expected);
            let (mut model, mut dirs) = (self.model.clone(), self.dirs.clone());
            match self.rig.response(tag) {
                Ok(_) => {
                    prop_assert!(apply(&mut model, &changes, &mut dirs), "{:?}", changes);
                    (self.model, self.dirs) = (model, dirs);
                }
                Err(error) if error.errno == Errno::EIO => {}
                Err(error) => {
                    prop_assert_eq!(error.errno, Errno::EISDIR);
                    prop_assert!(!apply(&mut model, &changes, &mut dirs), "{:?}", changes);
                }
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let mut seen = Model::new();
        dump(&mut self.store, &mut self.rig, ".", &mut seen);
        prop_assert_eq!(&seen, &self.model);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_acknowledged_is_lost(steps in proptest::collection::vec(step(), 1..40)) {
        let mut store = Store::default();
        let rig = store.start();
        let mut world =
            World { store, rig, waiting: Vec::new(), model: Model::new(), dirs: Vec::new() };
        for step in steps {
            match step {
                Step::Commit(changes, flags) => {
                    let ops: Vec<Value> = changes
                        .iter()
                        .map(|change| match change {
                            Change::Put(key, value) => put(key, value),
                            Change::Append(key, value) => append(key, value),
                            Change::Remove(key) => unlink(key),
                        })
                        .collect();
                    let body = json!({ "namespace": "primary", "flags": flags, "ops": ops });
                    let tag = world.rig.request("kvs.commit", body);
                    world.waiting.push((tag, changes));
                }
                Step::Serve(works) => {
                    let commits = world
                        .rig
                        .requests
                        .front()
                        .is_some_and(|request| request.topic() == "content.commit");
                    world.store.broken = (!works && commits).then_some(Errno::EIO);
                    world.store.serve_one(&mut world.rig);
                    world.store.broken = None;
                }
                Step::Crash => {
                    world.settle()?;
                    let rig = world.store.start();
                    drop(std::mem::replace(&mut world.rig, rig));
                    drop(flux_api::rpc::leaked_answers());
                    world.waiting.clear();
                    world.check()?;
                }
            }
            world.settle()?;
        }
        world.store.serve(&mut world.rig);
        world.settle()?;
        prop_assert!(world.waiting.is_empty());
        world.check()?;
    }
}
