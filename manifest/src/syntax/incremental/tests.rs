//! Property test: after any edit, the incremental parse of the next version equals its full parse.

use super::super::{ParsedFile, parse, parse_incremental};
use super::*;

/// All kinds of text that can occur in and around a unit.
const UNUSUAL_MANIFEST: &str = "\u{feff}# top\r\npdev: 1\r\napp: { name: shop, owner: me }\r\n\r\n# services\r\nservices:\r\n  # first\r\n  web: # why\r\n    image: \"a\r\n      b\"\r\n    command: |+\r\n      one\r\n\r\n        two\r\n\r\n  # between\r\n  'api':\r\n    env: {A: 1,\r\n      B: [x, 'y']}\r\n    needs:\r\n    - db\r\n    - web\r\n  nothing:\r\n  word: plain\r\n    continued\r\n  😀: { image: é }\r\n# behind\r\n\r\nvars: {a: \"b\", c: d}\r\nresources:\r\n db: postgres@16\r\n cache:\r\n   uses: redis@7\r\n\r\n # last\r\n";

const FLOW_STYLE_MANIFEST: &str = "pdev: 1\nservices: {\n  web: { image: x },\n  api: { image: y }\n}\njobs:\n  one: &a\n    image: x\n  two:\n    <<: *a\n    env: *a\n";

const EDIT_SNIPPETS: &[&str] = &[
    "a",
    "1",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "#",
    " # c",
    ":",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "|\n",
    ">-\n",
    "|1+\n",
    "---\n",
    "...\n",
    "%",
    "!t ",
    "😀",
    "\u{feff}",
    "? ",
    "\u{85}",
    "\u{2028}",
    "    re\n",
    "      X: y\n",
    "  x:\n",
    "z: ",
    "\n\n\n",
    "    # c\n",
    "# c\n",
    "<<<<<<< x\n",
    "${vars.a}",
    ",",
    "",
];

fn generate_manifest(services: usize) -> String {
    let mut text = String::from("pdev: 1\napp: bench\nresources:\n  db: { uses: postgres@16 }\nservices:\n");
    for number in 0..services {
        text.push_str(&format!(
            "  service-{number}:\n    image: \"example/service:{number}\"\n    port: {number}\n    size: {{ cpu: 100m }}\n    env:\n      LEVEL: debug\n    needs:\n      db: healthy\n"
        ));
    }
    text
}

/// A reproducible generator of pseudo-random numbers.
struct SeededRandom(u64);

impl SeededRandom {
    fn next_below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }

    fn edit_text(&mut self, text: &mut String) {
        let floor = |text: &str, mut at: usize| {
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let at = floor(text, self.next_below(text.len() + 1));
        let line = text[..at].rfind('\n').map_or(0, |found| found + 1);
        let end = text[at..].find('\n').map_or(text.len(), |found| at + found + 1);
        match self.next_below(10) {
            0 => text.replace_range(line..end, ""),
            1 => text.insert_str(line, &" ".repeat(1 + self.next_below(4))),
            2 => {
                let spaces = text[line..end].len() - text[line..end].trim_start_matches(' ').len();
                text.replace_range(line..line + self.next_below(spaces + 1), "");
            }
            3 => {
                let duplicate = text[line..end].to_owned();
                text.insert_str(line, &duplicate);
            }
            4 => {
                let to = floor(text, (at + self.next_below(40)).min(text.len()));
                text.replace_range(at..to, "");
            }
            _ => {
                let to = floor(text, (at + self.next_below(3)).min(text.len()));
                text.replace_range(at..to, EDIT_SNIPPETS[self.next_below(EDIT_SNIPPETS.len())]);
            }
        }
    }
}

/// Writes the tree with the spans of its keys, which equality ignores.
fn write_node_with_spans(node: &Node, out: &mut String) {
    out.push_str(&format!("{}..{}", node.span.start, node.span.end));
    match &node.kind {
        Kind::Scalar(scalar) => out.push_str(&format!("{scalar:?}")),
        Kind::List(items) => {
            out.push('[');
            items.iter().for_each(|item| write_node_with_spans(item, out));
            out.push(']');
        }
        Kind::Map(pairs) => {
            out.push('{');
            for pair in pairs {
                out.push_str(&format!("{}..{}{}:", pair.key.span.start, pair.key.span.end, pair.key.value));
                write_node_with_spans(&pair.value, out);
            }
            out.push('}');
        }
    }
}

fn root_with_spans(parsed: &ParsedFile) -> String {
    let mut out = String::new();
    parsed.root.iter().for_each(|node| write_node_with_spans(node, &mut out));
    out
}

fn previous_parse<'a>(parsed: &'a ParsedFile, text: &'a str) -> Option<PreviousParse<'a>> {
    PreviousParse::new(&parsed.reparse_base, text, parsed.root.as_ref()?, &parsed.comments)
}

/// Checks random sequences of edits. Returns how many edits were parsed incrementally.
fn check_random_edits(original: &str, rounds: usize, random: &mut SeededRandom) -> usize {
    let mut incremental_count = 0;
    for _ in 0..rounds {
        let mut text = original.to_owned();
        let mut parsed = parse(&text, FileId(0));
        for _ in 0..=random.next_below(5) {
            let mut next = text.clone();
            random.edit_text(&mut next);
            let full = parse(&next, FileId(0));
            let previous = previous_parse(&parsed, &text);
            let is_incremental = previous.is_some_and(|previous| reparse(&next, FileId(0), previous).is_some());
            incremental_count += usize::from(is_incremental);
            let incremental = parse_incremental(&next, FileId(0), previous);
            assert_eq!(root_with_spans(&incremental), root_with_spans(&full), "{text:?} -> {next:?}");
            assert_eq!(incremental.comments, full.comments, "{text:?} -> {next:?}");
            assert_eq!(incremental.diagnostics, full.diagnostics, "{text:?} -> {next:?}");
            assert_eq!(
                format!("{:?}", incremental.reparse_base),
                format!("{:?}", full.reparse_base),
                "{text:?} -> {next:?}"
            );
            (text, parsed) = (next, incremental);
        }
    }
    incremental_count
}

#[test]
fn random_edits_reparse_like_a_full_parse() {
    let mut random = SeededRandom(11);
    let generated = generate_manifest(20);
    let corpus = [
        (UNUSUAL_MANIFEST, 500, 60),
        (FLOW_STYLE_MANIFEST, 150, 0),
        (include_str!("../../../corpus/tiny.yaml"), 150, 0),
        (include_str!("../../../corpus/typical.yaml"), 60, 5),
        (include_str!("../../../corpus/anchors.yaml"), 40, 0),
        (include_str!("../../../corpus/crlf-bom.yaml"), 150, 10),
        (generated.as_str(), 60, 15),
    ];
    for (text, rounds, incremental_min) in corpus {
        let incremental_count = check_random_edits(text, rounds, &mut random);
        assert!(incremental_count >= incremental_min, "{incremental_count} of {rounds}: {text:?}");
    }
}

#[test]
fn long_manifest_is_reparsed_incrementally() {
    let incremental_count = check_random_edits(&generate_manifest(250), 4, &mut SeededRandom(3));
    assert!(incremental_count >= 1, "{incremental_count}");
}
