//! After any edit, the next version read from the one before is what reading the whole of it gives.

use super::super::{Parsed, parse, parse_after};
use super::*;

/// All that may stand in and around a unit.
const ODD: &str = "\u{feff}# top\r\npdev: 1\r\napp: { name: shop, owner: me }\r\n\r\n# services\r\nservices:\r\n  # first\r\n  web: # why\r\n    image: \"a\r\n      b\"\r\n    command: |+\r\n      one\r\n\r\n        two\r\n\r\n  # between\r\n  'api':\r\n    env: {A: 1,\r\n      B: [x, 'y']}\r\n    needs:\r\n    - db\r\n    - web\r\n  nothing:\r\n  word: plain\r\n    goes on\r\n  😀: { image: é }\r\n# behind\r\n\r\nvars: {a: \"b\", c: d}\r\nresources:\r\n db: postgres@16\r\n cache:\r\n   uses: redis@7\r\n\r\n # last\r\n";

const FLOW: &str = "pdev: 1\nservices: {\n  web: { image: x },\n  api: { image: y }\n}\njobs:\n  one: &a\n    image: x\n  two:\n    <<: *a\n    env: *a\n";

const PIECES: &[&str] = &[
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

fn generated(services: usize) -> String {
    let mut text = String::from("pdev: 1\napp: bench\nresources:\n  db: { uses: postgres@16 }\nservices:\n");
    for number in 0..services {
        text.push_str(&format!(
            "  service-{number}:\n    image: \"example/service:{number}\"\n    port: {number}\n    size: {{ cpu: 100m }}\n    env:\n      LEVEL: debug\n    needs:\n      db: healthy\n"
        ));
    }
    text
}

/// Small numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides.max(1)
    }

    fn edit(&mut self, text: &mut String) {
        let floor = |text: &str, mut at: usize| {
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let at = floor(text, self.roll(text.len() + 1));
        let line = text[..at].rfind('\n').map_or(0, |found| found + 1);
        let end = text[at..].find('\n').map_or(text.len(), |found| at + found + 1);
        match self.roll(10) {
            0 => text.replace_range(line..end, ""),
            1 => text.insert_str(line, &" ".repeat(1 + self.roll(4))),
            2 => {
                let spaces = text[line..end].len() - text[line..end].trim_start_matches(' ').len();
                text.replace_range(line..line + self.roll(spaces + 1), "");
            }
            3 => {
                let twice = text[line..end].to_owned();
                text.insert_str(line, &twice);
            }
            4 => {
                let to = floor(text, (at + self.roll(40)).min(text.len()));
                text.replace_range(at..to, "");
            }
            _ => {
                let to = floor(text, (at + self.roll(3)).min(text.len()));
                text.replace_range(at..to, PIECES[self.roll(PIECES.len())]);
            }
        }
    }
}

/// With the spans of keys, which equality passes over.
fn shown(node: &Node, out: &mut String) {
    out.push_str(&format!("{}..{}", node.span.start, node.span.end));
    match &node.kind {
        Kind::Scalar(scalar) => out.push_str(&format!("{scalar:?}")),
        Kind::List(items) => {
            out.push('[');
            items.iter().for_each(|item| shown(item, out));
            out.push(']');
        }
        Kind::Map(pairs) => {
            out.push('{');
            for pair in pairs {
                out.push_str(&format!("{}..{}{}:", pair.key.span.start, pair.key.span.end, pair.key.value));
                shown(&pair.value, out);
            }
            out.push('}');
        }
    }
}

fn root(parsed: &Parsed) -> String {
    let mut out = String::new();
    parsed.root.iter().for_each(|node| shown(node, &mut out));
    out
}

fn earlier<'a>(parsed: &'a Parsed, text: &'a str) -> Option<Earlier<'a>> {
    Earlier::of(&parsed.basis, text, parsed.root.as_ref()?, &parsed.comments)
}

/// How many of the edits were read from the version before.
fn edited(original: &str, rounds: usize, dice: &mut Dice) -> usize {
    let mut spliced = 0;
    for _ in 0..rounds {
        let mut text = original.to_owned();
        let mut parsed = parse(&text, FileId(0));
        for _ in 0..=dice.roll(5) {
            let mut next = text.clone();
            dice.edit(&mut next);
            let whole = parse(&next, FileId(0));
            let before = earlier(&parsed, &text);
            spliced += usize::from(before.is_some_and(|before| build(&next, FileId(0), before).is_some()));
            let again = parse_after(&next, FileId(0), before);
            assert_eq!(root(&again), root(&whole), "{text:?} -> {next:?}");
            assert_eq!(again.comments, whole.comments, "{text:?} -> {next:?}");
            assert_eq!(again.diagnostics, whole.diagnostics, "{text:?} -> {next:?}");
            assert_eq!(format!("{:?}", again.basis), format!("{:?}", whole.basis), "{text:?} -> {next:?}");
            (text, parsed) = (next, again);
        }
    }
    spliced
}

#[test]
fn any_edit() {
    let mut dice = Dice(11);
    let generated = generated(20);
    let corpus = [
        (ODD, 500, 60),
        (FLOW, 150, 0),
        (include_str!("../../../corpus/tiny.yaml"), 150, 0),
        (include_str!("../../../corpus/typical.yaml"), 60, 5),
        (include_str!("../../../corpus/anchors.yaml"), 40, 0),
        (include_str!("../../../corpus/crlf-bom.yaml"), 150, 10),
        (generated.as_str(), 60, 15),
    ];
    for (text, rounds, spliced_min) in corpus {
        let spliced = edited(text, rounds, &mut dice);
        assert!(spliced >= spliced_min, "{spliced} of {rounds}: {text:?}");
    }
}

#[test]
fn two_thousand_lines() {
    let spliced = edited(&generated(250), 4, &mut Dice(3));
    assert!(spliced >= 1, "{spliced}");
}
