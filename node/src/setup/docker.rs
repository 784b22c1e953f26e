//! Docker: `registry-mirrors` in `daemon.json`, which are for Docker Hub alone.

use std::path::Path;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::{Value, json};

use super::change::Change;
use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;

/// The key.
const MIRRORS: &str = "registry-mirrors";

/// What `daemon.json` in `folder` is to become.
pub(super) fn plan(folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
    let path = folder.join("daemon.json");
    if let Some(other) = mirror.registries.iter().find(|registry| !registry.is_docker_hub()) {
        let gateway = mirror.gateway.authority();
        return Err(Problem::asked(
            format!("Docker has mirrors for Docker Hub alone, not for {other}"),
            format!(
                "leave it out, and pull its images by their path, as in docker pull {gateway}/{other}/NAME:TAG"
            ),
        ));
    }
    let text = edit(&path, files.read(&path)?.as_deref(), mirror.gateway.url())?;
    Ok(Plan { files: vec![(path, text)], notes: Vec::new() })
}

/// Whether Docker takes this up only when it starts: at a reload it reads the keys that are there.
pub(super) fn needs_restart(change: &Change) -> bool {
    let has_mirrors = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains(MIRRORS));
    has_mirrors(&change.before) && !has_mirrors(&change.after)
}

/// The file with the mirror as the first one, unless it is among them.
fn edit(path: &Path, text: Option<&str>, gateway: &str) -> Result<String, Problem> {
    let whole = text.unwrap_or_default();
    // Docker passes over the byte order mark of Windows.
    let text = whole.strip_prefix('\u{feff}').unwrap_or(whole);
    let mark = &whole[..whole.len() - text.len()];
    if text.trim().is_empty() {
        return Ok(format!("{mark}{{\n  \"{MIRRORS}\": [\"{gateway}\"]\n}}\n"));
    }
    let wrong = |what: &str| {
        Problem::file(
            path,
            what,
            "correct it, or move it away, and run this again; Docker would not start with it",
        )
    };
    let mut meant: Value =
        serde_json::from_str(text).map_err(|error| wrong(&format!("is not JSON, {error}")))?;
    let object = meant.as_object_mut().ok_or_else(|| wrong("is no JSON object"))?;
    let list = object.entry(MIRRORS).or_insert(Value::Null);
    if list.is_null() {
        *list = json!([]);
    }
    let list = list.as_array_mut().ok_or_else(|| wrong("has registry-mirrors that are no list"))?;
    // Docker itself takes a slash at the end off.
    if list.iter().any(|one| one.as_str().is_some_and(|one| one.trim_end_matches('/') == gateway)) {
        return Ok(whole.to_owned());
    }
    list.insert(0, json!(gateway));

    let by_hand = || {
        Problem::file(
            path,
            "is written in a way that cannot be added to",
            format!("put {gateway:?} into the list \"{MIRRORS}\" by hand"),
        )
    };
    let root = CstRootNode::parse(text, &ParseOptions::default()).map_err(|_| by_hand())?;
    let object = root.object_value().ok_or_else(by_hand)?;
    let mirror = CstInputValue::String(gateway.to_owned());
    match object.get(MIRRORS) {
        Some(property) => drop(property.array_value_or_set().insert(0, mirror)),
        None => drop(object.append(MIRRORS, CstInputValue::Array(vec![mirror]))),
    }
    let text = root.to_string();
    // A key that is there twice is read by its last place.
    let read = serde_json::from_str::<Value>(&text).ok();
    if read.as_ref() == Some(&meant) { Ok(format!("{mark}{text}")) } else { Err(by_hand()) }
}

#[cfg(test)]
mod tests {
    use super::super::mirror::memory::{Memory, mirror};
    use super::*;

    const GATEWAY: &str = "http://127.0.0.1:5055";

    fn edited(text: Option<&str>) -> Result<String, Problem> {
        edit(Path::new("/etc/docker/daemon.json"), text, GATEWAY)
    }

    #[test]
    fn what_is_there_stays_in_its_order_and_looks() {
        let new = "{\n  \"registry-mirrors\": [\"http://127.0.0.1:5055\"]\n}\n";
        for (before, after) in [
            (None, new),
            (Some(" \n"), new),
            (Some("{}"), "{\n  \"registry-mirrors\": [\"http://127.0.0.1:5055\"]\n}"),
            (
                Some("{\n    \"z\": 1.50,\n    \"a\": {\"b\":[ ]}\n}\n"),
                "{\n    \"z\": 1.50,\n    \"a\": {\"b\":[ ]},\n    \"registry-mirrors\": [\"http://127.0.0.1:5055\"]\n}\n",
            ),
            (
                Some("{\"registry-mirrors\": [\"https://m\"], \"z\": 1}"),
                "{\"registry-mirrors\": [\"http://127.0.0.1:5055\", \"https://m\"], \"z\": 1}",
            ),
            (
                Some("{\n\t\"registry-mirrors\": [\n\t\t\"https://m\"\n\t]\n}\n"),
                "{\n\t\"registry-mirrors\": [\n\t\t\"http://127.0.0.1:5055\",\n\t\t\"https://m\"\n\t]\n}\n",
            ),
            (Some("{\"registry-mirrors\": null}"), "{\"registry-mirrors\": [\"http://127.0.0.1:5055\"]}"),
            (Some("\u{feff}"), format!("\u{feff}{new}").as_str()),
            (
                Some("\u{feff}{\"registry-mirrors\": [\"https://m\"]}\r\n"),
                "\u{feff}{\"registry-mirrors\": [\"http://127.0.0.1:5055\", \"https://m\"]}\r\n",
            ),
        ] {
            let once = edited(before).unwrap();
            assert_eq!(once, after);
            assert_eq!(edited(Some(&once)).unwrap(), once);
        }
        let there = "{ \"registry-mirrors\": [ \"https://m\", \"http://127.0.0.1:5055/\" ] }";
        assert_eq!(edited(Some(there)).unwrap(), there);
    }

    #[test]
    fn what_docker_would_not_take_is_refused() {
        for text in [
            "{",
            "[]",
            "{\"registry-mirrors\": \"x\"}",
            "{\"a\": 1,}",
            "{} // why",
            "{\"registry-mirrors\": [], \"registry-mirrors\": [\"x\"]}",
            "{\"registry-mirrors\": null, \"registry-mirrors\": [\"x\"]}",
        ] {
            let error = edited(Some(text)).unwrap_err().to_string();
            assert!(error.starts_with("/etc/docker/daemon.json "), "{error}");
        }
    }

    #[test]
    fn other_registries_are_refused_plainly() {
        let files = Memory::with(&[]);
        let refused = plan(Path::new("/etc/docker"), &mirror(&["docker.io", "ghcr.io"]), &files).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("Docker Hub alone") && said.contains("127.0.0.1:5055/ghcr.io/NAME:TAG"),
            "{said}"
        );
        let hub = plan(Path::new("/etc/docker"), &mirror(&["index.docker.io"]), &files).unwrap();
        assert_eq!(hub, plan(Path::new("/etc/docker"), &mirror(&[]), &files).unwrap());
    }
}
