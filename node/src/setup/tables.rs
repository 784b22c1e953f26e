//! TOML that is edited in place: comments, order and spacing stay as somebody wrote them.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, RawString, Table, TableLike, Value};

use super::problem::Problem;

/// What a file is expected to hold, for the text that says it does not.
const FIX: &str = "correct it, or move it away, and run this again";

/// A file's text as TOML; one that does not exist is empty.
pub(super) fn parse(path: &Path, text: Option<&str>) -> Result<DocumentMut, Problem> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|error: toml_edit::TomlError| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Problem::file(path, format!("is not TOML, line {line}: {}", error.message()), FIX)
    })
}

/// The edited document as text. One that means what it did is what it was; the line ends and the byte order mark of
/// Windows, which the editor drops, stay.
pub(super) fn written(document: &DocumentMut, before: Option<&str>) -> String {
    let text = document.to_string();
    let Some(before) = before else { return text };
    if before.parse::<DocumentMut>().is_ok_and(|before| before.to_string() == text) {
        return before.to_owned();
    }
    let mark = if before.starts_with('\u{feff}') { "\u{feff}" } else { "" };
    let ends = before.matches("\r\n").count();
    if ends > 0 && ends == before.matches('\n').count() {
        return format!("{mark}{}", text.replace("\r\n", "\n").replace('\n', "\r\n"));
    }
    format!("{mark}{text}")
}

/// Whether there is nothing in it but comments and space.
pub(super) fn is_blank(text: Option<&str>) -> bool {
    let mut lines = text.unwrap_or_default().lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#'))
}

/// The table of that name, made if there is none. A made one shows no header of its own unless it holds a value.
pub(super) fn table<'a>(
    path: &Path,
    parent: &'a mut dyn TableLike,
    name: &str,
) -> Result<&'a mut dyn TableLike, Problem> {
    let item = parent.entry(name).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let wrong = || Problem::file(path, format!("has {name:?}, which is no table"), FIX);
    item.as_table_like_mut().ok_or_else(wrong)
}

/// The array of that name, made if there is none.
pub(super) fn array<'a>(
    path: &Path,
    parent: &'a mut dyn TableLike,
    name: &str,
) -> Result<&'a mut Array, Problem> {
    let item = parent.entry(name).or_insert(Item::Value(Value::Array(Array::new())));
    item.as_array_mut().ok_or_else(|| Problem::file(path, format!("has {name:?}, which is no list"), FIX))
}

/// Puts a text at the front of a list, unless it is somewhere in it.
pub(super) fn put_first(array: &mut Array, text: &str) {
    if array.iter().any(|value| value.as_str() == Some(text)) {
        return;
    }
    let mut value = Value::from(text);
    if let Some(second) = array.get_mut(0) {
        let lead = second.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
        // A line of its own as the second has, without the comments above that.
        let own_line = lead.rsplit_once('\n').map(|(_, indent)| format!("\n{indent}"));
        value.decor_mut().set_prefix(own_line.as_deref().unwrap_or(lead));
        if own_line.is_none() {
            second.decor_mut().set_prefix(" ");
        }
    }
    array.insert_formatted(0, value);
}

/// Sets a value; one that is there keeps the spaces and the comment around it.
pub(super) fn set(table: &mut dyn TableLike, key: &str, value: impl Into<Value>) {
    let mut value = value.into();
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        _ => drop(table.insert(key, Item::Value(value))),
    }
}

/// The place in the document where a table or the first of its parts stands.
pub(super) fn position(item: &Item) -> Option<isize> {
    let below = |table: &Table| {
        let own = table.position();
        own.into_iter().chain(table.iter().filter_map(|(_, item)| position(item))).min()
    };
    match item {
        Item::Table(table) => below(table),
        Item::ArrayOfTables(tables) => tables.iter().filter_map(below).min(),
        Item::None | Item::Value(_) => None,
    }
}

/// The spaces before the header of a table.
pub(super) fn indent(table: &Table) -> String {
    let lead = table.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
    let last = lead.rsplit('\n').next().unwrap_or_default();
    if last.trim().is_empty() { last.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_shape() {
        for (before, after) in [
            ("a = [\"x\"]\n", "a = [\"new\", \"x\"]\n"),
            ("a = []\n", "a = [\"new\"]\n"),
            ("a = [ \"x\", \"y\" ] # why\n", "a = [ \"new\", \"x\", \"y\" ] # why\n"),
            ("a = [\n  # one\n  \"x\",\n]\n", "a = [\n  \"new\",\n  # one\n  \"x\",\n]\n"),
            ("a = [\"x\", \"new\"]\n", "a = [\"x\", \"new\"]\n"),
        ] {
            let path = Path::new("/f");
            let mut document = parse(path, Some(before)).unwrap();
            put_first(array(path, document.as_table_mut(), "a").unwrap(), "new");
            assert_eq!(document.to_string(), after);
        }
    }

    #[test]
    fn the_line_ends_of_windows_stay() {
        let before = "\u{feff}a = 1\r\n# why\r\n[b]\r\nc = \"\"\"x\r\ny\"\"\"\r\n";
        let path = Path::new("/f");
        let mut document = parse(path, Some(before)).unwrap();
        assert_eq!(written(&document, Some(before)), before);
        set(document.as_table_mut(), "a", 2);
        assert_eq!(written(&document, Some(before)), before.replace("a = 1", "a = 2"));
        let mixed = "a = 1\r\nb = 2\n";
        assert_eq!(written(&parse(path, Some(mixed)).unwrap(), Some(mixed)), mixed);
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        let error = parse(Path::new("/etc/f.toml"), Some("a = 1\nb = [\n")).unwrap_err().to_string();
        assert!(error.starts_with("/etc/f.toml is not TOML, line "), "{error}");
        let path = Path::new("/f");
        let mut document = parse(path, Some("a = 1\n")).unwrap();
        assert!(table(path, document.as_table_mut(), "a").is_err());
        assert!(array(path, document.as_table_mut(), "a").is_err());
    }
}
