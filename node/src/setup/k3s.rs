//! k3s and RKE2: `registries.yaml`, from which they write containerd's `hosts.toml` files when they start.
//!
//! No crate edits YAML and keeps comments reliably. So lines are put in as a person would, and what comes out is read
//! again and compared with what it was to mean. If that is not the same, the file stays as it is and the lines to add
//! are shown.

use std::path::Path;

use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::{Map, Value, json};

use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;

/// The key of mirrors.
const MIRRORS: &str = "mirrors";
/// What stands for all registries that are not named.
const ALL: &str = "*";

/// What `registries.yaml` in `folder` is to become.
pub(super) fn plan(folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
    let path = folder.join("registries.yaml");
    let mut text = files.read(&path)?.unwrap_or_default();
    let before = meaning(&path, &text)?;
    let mut notes = Vec::new();
    let of_all = before[MIRRORS][ALL]["endpoint"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let of_all: Vec<_> = of_all.filter(|one| !is_at(one, mirror.gateway.url())).collect();
    for name in mirror.names(ALL) {
        text = edit(&path, &text, &name, mirror.gateway.url())?;
        if before[MIRRORS].get(&name).is_none() && name != ALL && !of_all.is_empty() {
            let of_all = of_all.join(", ");
            notes.push(format!(
                "k3s reads the mirrors of {name} from now on, and no longer those of \"*\", where it also has {of_all}: \
                 what {name} needs of them has to be added to its endpoints by hand"
            ));
        }
    }
    if mirror.all {
        let named = before[MIRRORS].as_object();
        let others: Vec<&str> =
            named.into_iter().flat_map(Map::keys).map(String::as_str).filter(|name| *name != ALL).collect();
        if !others.is_empty() {
            let others = others.join(", ");
            notes.push(format!(
                "{others} has mirrors of its own, which are read instead of those for all: name it with --registry to \
                 mirror it too"
            ));
        }
        notes.push(
            "k3s reads \"*\" from 1.26.13, 1.27.10, 1.28.6 and 1.29.1 on; before that name each registry \
                    with --registry"
                .to_owned(),
        );
    }
    Ok(Plan { files: vec![(path, text)], notes })
}

/// The text with the gateway as the first endpoint of `name`, unless it is among them.
fn edit(path: &Path, text: &str, name: &str, gateway: &str) -> Result<String, Problem> {
    let by_hand = || {
        let lines = format!("mirrors: {{ {name:?}: {{ endpoint: [{gateway:?}] }} }}");
        let wrong = "is written in a way that cannot be added to safely";
        Problem::file(path, wrong, format!("add this to what it says, by hand: {lines}"))
    };
    let mut meant = meaning(path, text)?;
    let mirrors = entry(&mut meant, MIRRORS).ok_or_else(by_hand)?;
    let is_new = mirrors.get(name).is_none();
    let list = entry(mirrors, name).and_then(|mirror| mirror.as_object_mut()).ok_or_else(by_hand)?;
    let list = list.entry("endpoint").or_insert_with(|| json!([]));
    let list = list.as_array_mut().ok_or_else(by_hand)?;
    if list.iter().any(|one| one.as_str().is_some_and(|one| is_at(one, gateway))) {
        return Ok(text.to_owned());
    }
    list.insert(0, json!(gateway));
    let written =
        if is_new { with_registry(text, name, gateway) } else { with_endpoint(text, name, gateway) };
    let written = written.ok_or_else(by_hand)?;
    let read = meaning(path, &written).ok();
    if read.as_ref() == Some(&meant) { Ok(written) } else { Err(by_hand()) }
}

/// Whether an endpoint is the gateway.
fn is_at(endpoint: &str, gateway: &str) -> bool {
    endpoint.trim_end_matches('/') == gateway
}

/// The mapping at a key; one that is not there or null is made.
fn entry<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let entry = value.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    if entry.is_null() {
        *entry = json!({});
    }
    entry.is_object().then_some(entry)
}

/// What a text means; nothing is an empty mapping.
fn meaning(path: &Path, text: &str) -> Result<Value, Problem> {
    let wrong = |what: String| Problem::file(path, what, "correct it, or move it away, and run this again");
    let documents = Yaml::load_from_str(text).map_err(|error| wrong(format!("is not YAML, {error}")))?;
    match &documents[..] {
        [] => Ok(json!({})),
        [one] if one.is_null() => Ok(json!({})),
        [one] if one.is_mapping() => Ok(value(one)),
        [_] => Err(wrong("is not a mapping of keys".to_owned())),
        _ => Err(wrong("holds several documents".to_owned())),
    }
}

/// A node to compare by, whatever the order of its keys.
fn value(node: &Yaml<'_>) -> Value {
    if let Some(mapping) = node.as_mapping() {
        let entry = |(key, node): (&Yaml<'_>, _)| {
            (key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned), value(node))
        };
        return Value::Object(mapping.iter().map(entry).collect());
    }
    if let Some(sequence) = node.as_sequence() {
        return sequence.iter().map(value).collect();
    }
    match (node.is_null(), node.as_str()) {
        (true, _) => Value::Null,
        (_, Some(text)) => json!(text),
        // Numbers and the like are not touched: they only have to stay what they are.
        _ => json!({ "as it is": format!("{node:?}") }),
    }
}

/// The number of spaces before a line's text, of a line that has some.
fn indent(line: &str) -> Option<usize> {
    let text = line.trim_start_matches(' ');
    (!text.trim().is_empty() && !text.starts_with('#')).then(|| line.len() - text.len())
}

/// Where the block under a key begins: the number of the line after the key's.
fn below(lines: &[&str], from: usize, key: &str) -> Option<usize> {
    let is_key = |line: &&str| {
        let line = line.trim_start_matches("- ").trim();
        let spelled = [key.to_owned(), format!("\"{key}\""), format!("'{key}'")];
        spelled.iter().any(|key| {
            let rest = line.strip_prefix(key).and_then(|rest| rest.trim_start().strip_prefix(':'));
            rest.is_some_and(|rest| rest.trim().is_empty() || rest.trim_start().starts_with('#'))
        })
    };
    lines.iter().skip(from).position(is_key).map(|at| from + at + 1)
}

/// Puts a registry in front of the others, or with the key of mirrors at the end.
fn with_registry(text: &str, name: &str, gateway: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let block = |at: usize| {
        let (one, two, three) = (" ".repeat(at), " ".repeat(at + 2), " ".repeat(at + 4));
        format!("{one}{name:?}:\n{two}endpoint:\n{three}- {gateway:?}\n")
    };
    let Some(at) = below(&lines, 0, MIRRORS) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Some(format!("{text}{gap}{MIRRORS}:\n{}", block(2)));
    };
    let inner = lines[at..].iter().find_map(|line| indent(line)).filter(|inner| *inner > 0);
    inserted(&lines, at, &block(inner.unwrap_or(2)))
}

/// Puts an endpoint in front of those that a registry has, one a line.
fn with_endpoint(text: &str, name: &str, gateway: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = below(&lines, below(&lines, below(&lines, 0, MIRRORS)?, name)?, "endpoint")?;
    let first = lines[at..].iter().find(|line| indent(line).is_some())?;
    let dash = first.trim_start().starts_with("- ").then(|| indent(first)).flatten()?;
    inserted(&lines, at, &format!("{}- {gateway:?}\n", " ".repeat(dash)))
}

/// The lines with more before the one of that number.
fn inserted(lines: &[&str], at: usize, more: &str) -> Option<String> {
    let (before, after) = lines.split_at_checked(at)?;
    let before = before.concat();
    let gap = if before.ends_with('\n') { "" } else { "\n" };
    Some(format!("{before}{gap}{more}{}", after.concat()))
}

#[cfg(test)]
mod tests {
    use super::super::mirror::memory::{Memory, mirror};
    use super::*;

    const FILE: &str = "/etc/rancher/k3s/registries.yaml";

    fn edited(text: Option<&str>, registries: &[&str]) -> Result<String, Problem> {
        let files: Vec<_> = text.into_iter().map(|text| (FILE, text)).collect();
        let mut files = Memory::with(&files);
        let folder = Path::new("/etc/rancher/k3s");
        let made = plan(folder, &mirror(registries), &files)?;
        files.take(&made);
        assert_eq!(
            plan(folder, &mirror(registries), &files)?.files,
            made.files,
            "not the same the second time"
        );
        Ok(made.files[0].1.clone())
    }

    const NEW: &str = "mirrors:\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:5055\"\n";

    #[test]
    fn lines_are_put_in_as_a_person_would() {
        for (before, after) in [
            (None, NEW.to_owned()),
            (Some("# mine\n"), format!("# mine\n{NEW}")),
            (Some("configs:\n  a.test:\n    auth: {username: x, password: 'y: z'}"),
             format!("configs:\n  a.test:\n    auth: {{username: x, password: 'y: z'}}\n{NEW}")),
            (Some("mirrors:\nconfigs: {}\n"), format!("{NEW}configs: {{}}\n")),
            (
                Some("mirrors: # these\n    # one\n    docker.io:\n        endpoint: [\"https://m\"]\n"),
                "mirrors: # these\n    \"*\":\n      endpoint:\n        - \"http://127.0.0.1:5055\"\n    # one\n    docker.io:\n        endpoint: [\"https://m\"]\n".to_owned(),
            ),
            (
                Some("mirrors:\n  \"*\":\n    endpoint:\n    # first\n    - https://m\n"),
                "mirrors:\n  \"*\":\n    endpoint:\n    - \"http://127.0.0.1:5055\"\n    # first\n    - https://m\n".to_owned(),
            ),
        ] {
            assert_eq!(edited(before, &[]).unwrap(), after);
        }
    }

    #[test]
    fn named_registries() {
        let text = edited(
            Some("mirrors:\n  'ghcr.io':\n    rewrite: {\"a\": \"b\"}\n    endpoint:\n      - x\n"),
            &["docker.io", "ghcr.io"],
        );
        let read = meaning(Path::new(FILE), &text.unwrap()).unwrap();
        assert_eq!(read["mirrors"]["docker.io"]["endpoint"], json!(["http://127.0.0.1:5055"]));
        assert_eq!(read["mirrors"]["ghcr.io"]["endpoint"], json!(["http://127.0.0.1:5055", "x"]));
        assert_eq!(read["mirrors"]["ghcr.io"]["rewrite"], json!({"a": "b"}));
    }

    #[test]
    fn what_cannot_be_added_to_safely_is_refused_with_the_lines_to_add() {
        for text in [
            "mirrors: {docker.io: {endpoint: [x]}}\n",
            "mirrors:\n  \"*\":\n    endpoint: [\"https://m\"]\n",
            "mirrors:\n  \"*\":\n    rewrite: {}\n",
            "configs: {}\n...\n",
            "a: |\n  mirrors:\n    x\n",
        ] {
            let error = edited(Some(text), &[]).unwrap_err().to_string();
            assert!(
                error.starts_with(FILE) && error.contains("endpoint: [\"http://127.0.0.1:5055\"]"),
                "{text}: {error}"
            );
        }
        for text in ["a: [\n", "- a\n", "a: 1\n---\nb: 2\n", "mirrors: 3\n", "a: 1\na: 2\n"] {
            let error = edited(Some(text), &[]).unwrap_err().to_string();
            assert!(error.starts_with(FILE), "{text}: {error}");
        }
    }

    #[test]
    fn others_with_mirrors_of_their_own_are_named() {
        let files = Memory::with(&[(FILE, "mirrors:\n  ghcr.io:\n    endpoint:\n      - x\n")]);
        let notes = plan(Path::new("/etc/rancher/k3s"), &mirror(&[]), &files).unwrap().notes;
        assert!(notes[0].contains("ghcr.io") && notes[1].contains("1.28.6"), "{notes:?}");
    }

    #[test]
    fn what_a_named_registry_had_from_those_for_all_is_said() {
        let text =
            "mirrors:\n  \"*\":\n    endpoint:\n      - http://127.0.0.1:5055/\n      - https://m.test\n";
        let notes = |text: &str| {
            let files = Memory::with(&[(FILE, text)]);
            plan(Path::new("/etc/rancher/k3s"), &mirror(&["docker.io"]), &files).unwrap().notes
        };
        let said = notes(text);
        assert!(
            matches!(&said[..], [note] if note.contains("docker.io") && note.contains("has https://m.test:")),
            "{said:?}"
        );
        assert!(notes(&text.replace("      - https://m.test\n", "")).is_empty());
        assert!(notes(&text.replace("\"*\"", "docker.io")).is_empty());
    }
}
