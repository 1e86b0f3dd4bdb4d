//! Pieces of a page: text escaped, figures that stand whole beside their rounded form, sections, tables.
use std::fmt::Display;

/// Text as a page may hold it, in and outside quotes. Signs that no page may hold are left out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' | '\t' => out.push(c),
            _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => (),
            _ => out.push(c),
        }
    }
    out
}

/// `shown` for the eye, `value` for whoever wants to compute with it.
pub fn figure(key: &str, value: impl Display, shown: &str) -> String {
    format!("<data data-key=\"{}\" value=\"{value}\">{}</data>", escape(key), escape(shown))
}

pub fn section(title: &str, inside: &str) -> String {
    if inside.is_empty() { String::new() } else { format!("<section>\n<h2>{title}</h2>\n{inside}</section>\n") }
}

/// Columns by name and class (`n`: numbers, right-aligned); cells are HTML.
pub fn table(columns: &[(&str, &str)], rows: &[Vec<String>]) -> String {
    let cell = |tag: &str, class: &str, text: &str| match class {
        "" => format!("<{tag}>{text}</{tag}>"),
        _ => format!("<{tag} class=\"{class}\">{text}</{tag}>"),
    };
    let names: String = columns.iter().map(|(name, class)| cell("th", class, &escape(name))).collect();
    let named = columns.iter().any(|(name, _)| !name.is_empty());
    let head = if named { format!("<thead><tr>{names}</tr></thead>\n") } else { String::new() };
    let row = |row: &Vec<String>| columns.iter().zip(row).map(|((_, class), text)| cell("td", class, text)).collect::<String>();
    let rows: String = rows.iter().map(|r| format!("<tr>{}</tr>\n", row(r))).collect();
    format!("<div class=\"wide\"><table>\n{head}<tbody>\n{rows}</tbody>\n</table></div>\n")
}
