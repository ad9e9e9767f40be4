//! Printing: tables for people, JSON and CSV for programs, colours on a terminal only.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::arguments::Format;
use crate::failure::{Exit, Failure};

/// A style of text on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
    Warn,
}

impl Style {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Good => Some("32"),
            Self::Bad => Some("31"),
            Self::Warn => Some("33"),
        }
    }
}

/// Returns `true` if colours are wanted: the standard output is a terminal, and neither `NO_COLOR` nor a dumb terminal speaks against it.
pub(crate) fn wants_colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !no_color && !is_dumb
}

/// The text in this style.
pub(crate) fn painted(text: &str, style: Style, colours: bool) -> String {
    match style.code().filter(|_| colours) {
        Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        None => text.to_owned(),
    }
}

/// A column of a table of rows `T`.
pub(crate) struct Column<T> {
    pub(crate) title: &'static str,
    /// Whether it is only shown in a wide table.
    pub(crate) is_wide: bool,
    pub(crate) is_number: bool,
    pub(crate) cell: fn(&T) -> String,
    pub(crate) style: fn(&T) -> Style,
}

/// A column of text.
pub(crate) fn column<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column {
        title,
        is_wide: false,
        is_number: false,
        cell,
        style: |_| Style::Plain,
    }
}

impl<T> Column<T> {
    pub(crate) fn wide(self) -> Self {
        Self {
            is_wide: true,
            ..self
        }
    }

    pub(crate) fn number(self) -> Self {
        Self {
            is_number: true,
            ..self
        }
    }

    pub(crate) fn styled(self, style: fn(&T) -> Style) -> Self {
        Self { style, ..self }
    }
}

/// The rows as a table.
pub(crate) fn table<T>(rows: &[T], columns: &[Column<T>], is_wide: bool, colours: bool) -> String {
    let columns: Vec<&Column<T>> = columns
        .iter()
        .filter(|column| is_wide || !column.is_wide)
        .collect();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|column| printable(&(column.cell)(row)))
                .collect()
        })
        .collect();
    let width = |index: usize| {
        let cells = cells.iter().map(|row| row[index].chars().count());
        cells.max().unwrap_or(0).max(columns[index].title.len())
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    push_line(&mut text, &columns, &widths, &titles, |_| Style::Bold, colours);
    for (row, cells) in rows.iter().zip(&cells) {
        push_line(
            &mut text,
            &columns,
            &widths,
            cells,
            |index| (columns[index].style)(row),
            colours,
        );
    }
    text
}

fn push_line<T>(
    text: &mut String,
    columns: &[&Column<T>],
    widths: &[usize],
    cells: &[String],
    style: impl Fn(usize) -> Style,
    colours: bool,
) {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let padding = " ".repeat(widths[index].saturating_sub(cell.chars().count()));
        let cell = painted(cell, style(index), colours);
        if index > 0 {
            line += "  ";
        }
        match columns[index].is_number {
            true => line += &(padding + &cell),
            false => line += &(cell + &padding),
        }
    }
    *text += line.trim_end();
    text.push('\n');
}

/// Returns `true` for what moves a cursor, hides text or turns its direction: control and format characters of names and payloads.
fn is_unprintable(letter: char) -> bool {
    let is_format = matches!(
        letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    letter.is_control() || is_format
}

/// Text that moves no cursor and hides nothing: control and format characters of names and payloads are shown as escapes.
pub(crate) fn printable(text: &str) -> String {
    match text.contains(is_unprintable) {
        false => text.to_owned(),
        true => text
            .chars()
            .flat_map(|letter| match is_unprintable(letter) {
                true => letter.escape_default().collect::<Vec<_>>(),
                false => vec![letter],
            })
            .collect(),
    }
}

/// The value as JSON: over many lines, or in one where documents follow each other.
pub(crate) fn json(value: &impl Serialize, is_line: bool) -> String {
    let text = match is_line {
        true => serde_json::to_string(value),
        false => serde_json::to_string_pretty(value),
    };
    // Nothing that is printed has a key that is no text, or a map that fails.
    let text = text.unwrap_or_else(|error| format!("{{\"error\": {:?}}}", error.to_string()));
    escaped_json(&text) + "\n"
}

/// JSON itself escapes what is below a blank. The rest of what a terminal obeys stands in its strings only.
fn escaped_json(text: &str) -> String {
    let is_raw = |letter: char| letter > '\u{7e}' && is_unprintable(letter);
    if !text.contains(is_raw) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_raw(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                escaped += &format!("\\u{unit:04x}");
            }
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

/// The rows as CSV: the fields of their JSON in alphabetical order, lists joined by spaces.
pub(crate) fn csv<T: Serialize>(rows: &[T]) -> String {
    let objects = rows
        .iter()
        .map(|row| serde_json::to_value(row).unwrap_or_default());
    let objects: Vec<Value> = objects.collect();
    let mut text = String::new();
    let fields: Vec<String> = match objects.first() {
        Some(Value::Object(first)) => first.keys().cloned().collect(),
        _ => return text,
    };
    text += &(fields.join(",") + "\n");
    for object in &objects {
        let cells = fields.iter().map(|field| csv_cell(&object[field.as_str()]));
        text += &(cells.collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

/// A cell, quoted as RFC 4180 says. Control characters are escaped, and text that a spreadsheet would take for a formula gets an apostrophe
/// before it.
fn csv_cell(value: &Value) -> String {
    let text = printable(&plain(value));
    let is_formula = !value.is_number() && text.starts_with(['=', '+', '-', '@']);
    let text = match is_formula {
        true => format!("'{text}"),
        false => text,
    };
    match text.contains(['"', ',']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// The rows of one record after another, without the line of field names.
pub(crate) fn csv_line<T: Serialize>(row: &T) -> String {
    let text = csv(std::slice::from_ref(row));
    text.split_once('\n')
        .map_or_else(String::new, |(_, line)| line.to_owned())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", plain(value)));
            fields.collect::<Vec<_>>().join(" ")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Prints to the standard output. A reader that went away ends the command, and is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| match error.kind() == io::ErrorKind::BrokenPipe {
        true => Failure::new(Exit::Fine, ""),
        false => error.into(),
    })
}

/// Says something beside the answer, on the standard error.
pub(crate) fn complain(text: &str) {
    eprintln!("kcl: {}", printable(text));
}

/// How the answers of one run are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    pub(crate) colours: bool,
    /// Whether documents follow each other.
    pub(crate) is_watching: bool,
}

impl Printer {
    /// The rows with their columns, below a text that only people are shown, or the document of which the rows are a part.
    pub(crate) fn rows<T: Serialize>(
        &self,
        heading: &str,
        rows: &[T],
        columns: &[Column<T>],
        document: &impl Serialize,
    ) -> String {
        match self.format {
            Format::Table | Format::Wide => {
                let table = table(rows, columns, self.format == Format::Wide, self.colours);
                match heading.is_empty() {
                    true => table,
                    false => format!("{heading}\n\n{table}"),
                }
            }
            Format::Json => json(document, self.is_watching),
            Format::Csv => csv(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        size: u32,
        parts: Vec<&'static str>,
    }

    const ROWS: [Row; 2] = [
        Row {
            name: "a",
            size: 7,
            parts: vec![],
        },
        Row {
            name: "long, \"b\"",
            size: 100,
            parts: vec![],
        },
    ];

    fn columns() -> [Column<Row>; 3] {
        [
            column("NAME", |row: &Row| row.name.to_owned()).styled(|_| Style::Good),
            column("SIZE", |row: &Row| row.size.to_string()).number(),
            column("PARTS", |row: &Row| row.parts.join(" ")).wide(),
        ]
    }

    #[test]
    fn columns_are_aligned_and_wide_ones_left_out() {
        assert_eq!(
            table(&ROWS, &columns(), false, false),
            "NAME       SIZE\na             7\nlong, \"b\"   100\n"
        );
        assert!(table(&ROWS, &columns(), true, false).starts_with("NAME       SIZE  PARTS\n"));
    }

    #[test]
    fn colours_do_not_move_columns() {
        let coloured = table(&ROWS, &columns(), false, true);
        let plain: String = coloured
            .split('\u{1b}')
            .map(|part| part.split_once('m').map_or(part, |(_, rest)| rest))
            .collect();
        assert_eq!(plain.lines().count(), 3);
        assert!(coloured.contains("\u{1b}[32ma\u{1b}[0m        "), "{coloured:?}");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let rows = [Row {
            name: "long, \"b\"",
            size: 1,
            parts: vec!["x", "y"],
        }];
        assert_eq!(csv(&rows), "name,parts,size\n\"long, \"\"b\"\"\",x y,1\n");
        assert_eq!(csv::<Row>(&[]), "");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("Zürich"), "Zürich");
        assert_eq!(printable("a\u{9b}2J\u{202e}b"), "a\\u{9b}2J\\u{202e}b");
    }

    #[test]
    fn names_reach_no_terminal_raw_in_any_format() {
        let rows = [HOSTILE];
        let columns = [column("NAME", |row: &Row| row.name.to_owned())];
        for format in [Format::Table, Format::Wide, Format::Json, Format::Csv] {
            let printer = Printer {
                format,
                colours: false,
                is_watching: false,
            };
            let printed = printer.rows("", &rows, &columns, &rows);
            let raw = |letter: char| letter != '\n' && is_unprintable(letter);
            assert!(!printed.contains(raw), "{format:?}: {printed:?}");
        }
        let read: Value = serde_json::from_str(&json(&rows, true)).unwrap();
        assert_eq!(read[0]["name"], HOSTILE.name, "JSON loses nothing");
    }

    const HOSTILE: Row = Row {
        name: "=x\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\nnext,\r\"",
        size: 1,
        parts: vec![],
    };

    #[test]
    fn csv_holds_no_formula() {
        for text in ["=1+1", "+1", "-1", "@a"] {
            let cell = csv_cell(&Value::from(text));
            assert_eq!(cell, format!("'{text}"));
        }
        assert_eq!(csv_cell(&Value::from(-5)), "-5", "a number is none");
        assert_eq!(csv(&[HOSTILE]).lines().count(), 2, "a name adds no row");
    }
}
