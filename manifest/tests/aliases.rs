//! Tests of aliases without an anchor: the message names them, and the rest of the file is read.

mod memory_files;

use manifest::FileId;
use memory_files::read_and_select;

#[test]
fn unknown_anchor_is_reported_at_its_alias() {
    let cases = [
        ("env: { A: *nope }", "*nope", "there is no anchor `&nope` above this alias", "Define it above"),
        ("<<: *base", "*base", "there is no anchor `&base` above this alias", "Define it above"),
        ("<<: [*base]", "*base", "there is no anchor `&base` above this alias", "Define it above"),
        ("env: *commn", "*commn", "there is no anchor `&commn` above this alias; did you mean `*common`?", "Define"),
        ("routes: [*later], x-a: &later a", "*later", "there is no anchor `&later` above this alias", "Define"),
        ("env: &self { A: *self }", "*self", "this alias is inside the value that it repeats", "Write the value out"),
    ];
    for (pair, at, message, help) in cases {
        let text = format!(
            "pdev: 1\napp: x\nx-common: &common {{ A: 1 }}\nservices:\n  web: {{ image: a, {pair} }}\n  other: {{ image: b }}\n"
        );
        let selected = read_and_select(&text);
        let [found] = selected.diagnostics.as_slice() else { panic!("{pair}: {:?}", selected.diagnostics) };
        assert_eq!((found.code.0, found.message.as_str()), ("PD0101", message), "{pair}");
        assert_eq!(selected.sources.slice(found.span), at, "{pair}");
        assert!(found.help.as_ref().is_some_and(|text| text.starts_with(help)), "{pair}: {:?}", found.help);
        assert!(selected.manifest.services.contains_key("other"), "{pair}");
    }
}

#[test]
fn unquoted_pattern_is_quoted_by_a_safe_fix() {
    let text = "pdev: 1\napp: x\njobs:\n  j:\n    image: a\n    inputs: [*.sql, src]\n    watch:\n      - { path: ., action: \
                restart, ignore: [**/*.tmp] }\n";
    let selected = read_and_select(text);
    assert_eq!(selected.diagnostics.len(), 2, "{:?}", selected.diagnostics);
    let fixed = manifest::fix::apply(text, &manifest::fix::safe_edits(&selected.diagnostics, FileId(0)));
    let selected = read_and_select(&fixed);
    assert!(selected.diagnostics.is_empty(), "{fixed}: {:?}", selected.diagnostics);
    let inputs = &selected.manifest.jobs["j"].value.inputs;
    assert_eq!(inputs.iter().map(|input| input.value.as_str()).collect::<Vec<_>>(), ["*.sql", "src"]);
}
