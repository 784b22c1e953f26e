//! The configuration file: TOML, read into values that remember their line.
//!
//! The tables are walked by hand and not by serde, because serde stops at the first error and forgets where the
//! good values stood; an operator should see everything that is wrong at once, each with its line.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod upstreams;

pub(super) use upstreams::{Credentials, Mirror, Upstream};

use super::open;
use super::problem::{Given, Problem, Source, Wrong, shown};

/// The keys of the file's top level that hold one text.
const TEXTS: [&str; 13] = [
    "data_dir",
    "gateway_addr",
    "peer_addr",
    "admin_addr",
    "cluster_key_file",
    "zone",
    "upload_rate",
    "download_rate",
    "upstream_rate",
    "stream",
    "tags",
    "tag_ttl",
    "tag_stale",
];
/// The other keys of the top level.
const OTHERS: [&str; 4] = ["bootstrap", "policy", "tag", "upstream"];

/// What a file said, nothing of it looked at yet.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The keys of the top level that hold one text.
    pub(super) texts: Vec<Given>,
    /// `bootstrap`.
    pub(super) bootstrap: Vec<Given>,
    /// `allow` of `[policy]`.
    pub(super) allow: Vec<Given>,
    /// `deny` of `[policy]`.
    pub(super) deny: Vec<Given>,
    /// `public_for` of `[policy]`.
    pub(super) public_for: Option<Given>,
    /// `client_for` of `[policy]`.
    pub(super) client_for: Option<Given>,
    /// `match` and `ttl` of each `[[tag]]`.
    pub(super) tags: Vec<(Given, Given)>,
    /// `[upstream."name"]`.
    pub(super) upstreams: Vec<Upstream>,
}

/// Reads a file; what is wrong with its form goes to `problems`, the rest is returned.
pub(super) fn read(path: &Path, named_by: &Given, problems: &mut Vec<Problem>) -> File {
    match text_of(path) {
        Ok(text) => parse(path, &text, problems),
        Err(wrong) => {
            problems.push(named_by.problem(wrong));
            File::default()
        }
    }
}

fn text_of(path: &Path) -> Result<String, Wrong> {
    const ALLOWED: &str = "allowed: the path of a TOML file that this user may read";
    let bytes = open::read(path, ALLOWED)?;
    String::from_utf8(bytes).map_err(|_| Wrong::new("is not UTF-8 text", ALLOWED))
}

/// Reads a file's text.
pub(super) fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> File {
    let mut walk = Walk { path, text, problems };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let allowed = "allowed: TOML, see https://toml.io";
            walk.wrong("the file", error.span().unwrap_or(0..0), "is not TOML: ", error.message(), allowed);
        }
        // What follows a mistake in the form may be read into the wrong table: no more is said of it.
        return File::default();
    }
    walk.file(table.get_ref())
}

/// One reading of one file.
struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

type Entry<'a, 'i> = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

impl Walk<'_> {
    fn file(&mut self, table: &DeTable<'_>) -> File {
        let mut file = File::default();
        for (name, value) in in_order(table) {
            let key: &str = name.get_ref();
            match key {
                _ if TEXTS.contains(&key) => file.texts.extend(self.text(key, value)),
                "bootstrap" => file.bootstrap = self.texts(key, value),
                "policy" => {
                    for (name, value) in self.table(key, value) {
                        match name.get_ref().as_ref() {
                            "allow" => file.allow = self.texts("policy.allow", value),
                            "deny" => file.deny = self.texts("policy.deny", value),
                            "public_for" => file.public_for = self.text("policy.public_for", value),
                            "client_for" => file.client_for = self.text("policy.client_for", value),
                            _ => {
                                let known = ["allow", "deny", "public_for", "client_for"];
                                self.unknown("policy.", name, &known);
                            }
                        }
                    }
                }
                "tag" => file.tags = self.tags(value),
                "upstream" => {
                    for entry in self.table(key, value) {
                        file.upstreams.extend(self.upstream(entry));
                    }
                }
                _ => self.unknown("", name, &[&TEXTS[..], &OTHERS[..]].concat()),
            }
        }
        file
    }

    /// `[[tag]]`: each with `match` and `ttl`.
    fn tags(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<(Given, Given)> {
        let DeValue::Array(tables) = value.get_ref() else {
            self.kind("tag", value, "allowed: tables, each [[tag]] with match and ttl");
            return Vec::new();
        };
        let mut rules = Vec::new();
        for table in tables {
            let (mut matching, mut ttl) = (None, None);
            for (name, value) in self.table("tag", table) {
                match name.get_ref().as_ref() {
                    "match" => matching = self.text("tag.match", value),
                    "ttl" => ttl = self.text("tag.ttl", value),
                    _ => self.unknown("tag.", name, &["match", "ttl"]),
                }
            }
            match (matching, ttl) {
                (Some(matching), Some(ttl)) => rules.push((matching, ttl)),
                _ => self.wrong(
                    "tag",
                    table.span(),
                    "is not complete",
                    "",
                    "allowed: match and ttl, both texts",
                ),
            }
        }
        rules
    }

    /// One text.
    fn text(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Given> {
        let Some(text) = value.get_ref().as_str() else {
            self.kind(key, value, "allowed: a text in quotes");
            return None;
        };
        let given = self.given(key, text, value.span());
        Some(if matches!(key, "data_dir" | "cluster_key_file") { self.beside(given) } else { given })
    }

    /// A list of texts; one text alone counts as a list of one.
    fn texts(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Vec<Given> {
        match value.get_ref() {
            DeValue::Array(values) => values.iter().filter_map(|value| self.text(key, value)).collect(),
            DeValue::String(_) => self.text(key, value).into_iter().collect(),
            _ => {
                let allowed = "allowed: a list of texts, as in [\"one\", \"two\"]";
                self.kind(key, value, allowed);
                Vec::new()
            }
        }
    }

    fn truth(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> bool {
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.kind(key, value, "allowed: true or false, without quotes");
            false
        })
    }

    /// A table's entries in the file's order, none if it is no table.
    fn table<'t, 'i>(&mut self, key: &str, value: &'t Spanned<DeValue<'i>>) -> Vec<Entry<'t, 'i>> {
        if let Some(table) = value.get_ref().as_table() {
            return in_order(table);
        }
        self.kind(key, value, &format!("allowed: a table, [{key}]"));
        Vec::new()
    }

    fn given(&self, key: &str, text: &str, span: Range<usize>) -> Given {
        Given { key: key.to_owned(), text: text.to_owned(), source: self.source(span) }
    }

    /// A relative path in a file is meant from the file's own folder, wherever the node is started.
    fn beside(&self, given: Given) -> Given {
        let Some(folder) = self.path.parent() else { return given };
        // A key in place of a path stays as it is, to be recognised.
        if given.text.is_empty() || given.text.starts_with("shoal-key-") {
            return given;
        }
        let joined: PathBuf = folder.join(&given.text);
        match joined.into_os_string().into_string() {
            Ok(text) => Given { text, ..given },
            Err(_) => given,
        }
    }

    fn source(&self, span: Range<usize>) -> Source {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = 1 + before.split(|&b| b == b'\n').count().saturating_sub(1);
        Source::File { path: self.path.to_owned(), line }
    }

    /// A value of the wrong kind or form. The value itself is not repeated: it may be a secret, or whole tables.
    fn wrong(&mut self, key: &str, at: Range<usize>, wrong: &str, detail: &str, allowed: &str) {
        let source = self.source(at);
        self.problems.push(Problem {
            key: key.to_owned(),
            value: None,
            source,
            wrong: format!("{wrong}{detail}"),
            allowed: allowed.to_owned(),
        });
    }

    /// A value of another kind. It is shown where it is short; what should have been a secret never is.
    fn kind(&mut self, key: &str, value: &Spanned<DeValue<'_>>, allowed: &str) {
        let kind = value.get_ref().type_str();
        let short = matches!(value.get_ref(), DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_));
        let text = self.text.get(value.span()).filter(|_| short && !key.ends_with("password"));
        let detail = text.map_or_else(
            || format!("of the kind {kind}"),
            |text| format!("{}, of the kind {kind}", shown(text)),
        );
        self.wrong(key, value.span(), "is ", &detail, allowed);
    }

    fn unknown(&mut self, prefix: &str, name: &Spanned<std::borrow::Cow<'_, str>>, known: &[&str]) {
        let wrong = match nearest(name.get_ref(), known) {
            Some(near) => format!("is not a known key: did you mean {near}?"),
            None => "is not a known key".to_owned(),
        };
        let source = self.source(name.span());
        self.problems.push(Problem {
            key: format!("{prefix}{}", shown(name.get_ref())),
            value: None,
            source,
            wrong,
            allowed: format!("known here: {}", known.join(", ")),
        });
    }
}

/// A table's entries as they stand in the file, so that problems come in the order of their lines.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    let mut entries: Vec<Entry<'t, 'i>> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The known name that a person who wrote `name` probably meant.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name: String = name.chars().take(40).collect::<String>().to_lowercase().replace('-', "_");
    // A third of the letters may be wrong: "gatway_adr" is a typo, "color" is another word.
    let meant = |&(distance, near): &(usize, &str)| {
        distance <= near.len() / 3 || (name.len() >= 4 && (near.contains(&name) || name.contains(near)))
    };
    known.iter().map(|&known| (edits(&name, known), known)).filter(meant).min().map(|(_, near)| near)
}

/// The Levenshtein distance: how many letters to add, drop or change.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
