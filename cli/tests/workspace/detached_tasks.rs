//! Tasks and threads of the runtime that nothing owns: calls of `spawn` whose result is dropped.

const SPAWN_CALLS: [&str; 4] =
    ["tokio::spawn(", "tokio::task::spawn(", "tokio::task::spawn_blocking(", "tokio::task::spawn_local("];

/// The line numbers of calls whose result is dropped.
pub(crate) fn find_detached_tasks(code: &str) -> Vec<usize> {
    let calls = SPAWN_CALLS.iter().flat_map(|call| code.match_indices(call));
    let mut lines: Vec<usize> = calls
        .filter(|(index, call)| is_dropped(&code[..*index], &code[index + call.len()..]))
        .map(|(index, _)| code[..index].matches('\n').count() + 1)
        .collect();
    lines.sort_unstable();
    lines
}

/// `after` begins inside the parentheses of the call.
fn is_dropped(before: &str, after: &str) -> bool {
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    if before[line_start..].trim_start().starts_with("//") {
        return false;
    }
    let before = without_trailing_comments(before);
    // `let _name =` is an owner until the end of the block; `let _ =` drops at once.
    if before.ends_with("drop(") || before.ends_with("let _ =") {
        return !follows_await(after);
    }
    let is_statement = before.is_empty() || before.ends_with([';', '{', '}']);
    is_statement && call_end(after).is_some_and(|end| after[end..].trim_start().starts_with(';'))
}

fn without_trailing_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_end();
        let line_start = text.rfind('\n').map_or(0, |newline| newline + 1);
        if !text[line_start..].trim_start().starts_with("//") {
            return text;
        }
        text = &text[..line_start];
    }
}

fn follows_await(after: &str) -> bool {
    call_end(after).is_some_and(|end| after[end..].trim_start().starts_with(".await"))
}

/// The index behind the closing parenthesis of a call.
fn call_end(after: &str) -> Option<usize> {
    let mut depth = 1;
    for (index, character) in after.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::find_detached_tasks;

    #[test]
    fn dropped_results_are_found_and_owned_ones_are_not() {
        for (code, expected) in [
            ("fn f() {\n    tokio::spawn(work());\n}", vec![2]),
            ("fn f() {\n    // Why.\n    tokio::spawn(async move { (1, 2) });\n}", vec![3]),
            ("drop(tokio::spawn(work()));", vec![1]),
            ("let _ = tokio::task::spawn_blocking(work);", vec![1]),
            ("if x {}\ntokio::spawn(a());\ntokio::spawn(b());", vec![2, 3]),
            ("let task = tokio::spawn(work());", vec![]),
            ("let _owner = tokio::spawn(work());", vec![]),
            ("fn f() -> JoinHandle<()> {\n    tokio::spawn(work())\n}", vec![]),
            ("{ tokio::spawn(work()).await; }", vec![]),
            ("drop(tokio::task::spawn_blocking(work).await);", vec![]),
            ("self.tasks.insert(tokio::spawn(work()));", vec![]),
            ("// tokio::spawn(work());", vec![]),
        ] {
            assert_eq!(find_detached_tasks(code), expected, "{code}");
        }
    }
}
