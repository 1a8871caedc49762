//! Path patterns of manifests and modules: `*` and `?` match within one path component, `**` matches any number of
//! folders.
//!
//! `.dockerignore` has rules of its own, which the Docker driver implements.

/// Whether a path component, or a pattern of several, contains a wildcard.
#[must_use]
pub fn has_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// The folders at the start of a pattern that contain no wildcard. Only they have to be searched for matches.
#[must_use]
pub fn literal_prefix(pattern: &str) -> String {
    pattern.split('/').take_while(|part| !has_wildcard(part)).collect::<Vec<_>>().join("/")
}

/// Whether the pattern matches the whole path.
#[must_use]
pub fn matches_path(pattern: &str, path: &str) -> bool {
    matches_parts(&split(pattern), &split(path))
}

/// Whether the pattern matches the path or one of its parent folders.
#[must_use]
pub fn matches_path_or_parent(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (split(pattern), split(path));
    (0..=path.len()).any(|length| matches_parts(&pattern, &path[..length]))
}

/// Whether the pattern matches the name, which is one path component.
#[must_use]
pub fn matches_name(pattern: &str, name: &str) -> bool {
    let matches_byte = |pattern: &u8, byte: &u8| *pattern == b'?' || pattern == byte;
    matches_sequence(pattern.as_bytes(), name.as_bytes(), |pattern| *pattern == b'*', matches_byte)
}

fn split(path: &str) -> Vec<&str> {
    path.split('/').collect()
}

fn matches_parts(pattern: &[&str], path: &[&str]) -> bool {
    matches_sequence(pattern, path, |part| *part == "**", |part, name| matches_name(part, name))
}

/// Matches items against a pattern in which some elements (stars) match any number of items. If a later element does
/// not match, only the last star takes one more item, so the cost is bounded by the product of both lengths.
fn matches_sequence<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    matches_item: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut next, mut position) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while position < items.len() {
        match pattern.get(next) {
            Some(element) if is_star(element) => {
                last_star = Some((next, position));
                next += 1;
            }
            Some(element) if matches_item(element, &items[position]) => {
                next += 1;
                position += 1;
            }
            _ => {
                let Some((star, start)) = last_star else { return false };
                last_star = Some((star, start + 1));
                (next, position) = (star + 1, start + 1);
            }
        }
    }
    pattern[next..].iter().all(is_star)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, path, expected) in [
            ("src/*.rs", "src/main.rs", true),
            ("src/*.rs", "src/a/main.rs", false),
            ("src/**/*.rs", "src/a/b/main.rs", true),
            ("src/**/*.rs", "src/main.rs", true),
            ("**/package.json", "package.json", true),
            ("**/a/**/b", "x/a/y/a/b", true),
            ("**/a/**/b", "x/a/y/b/c", false),
            ("src/**", "src", true),
            ("s?c/*", "src/deep/file", false),
            ("a*b*c", "abbcbc", true),
            ("a*b*c", "abbcb", false),
            ("*.txt", "a.rs", false),
            ("", "a", false),
        ] {
            assert_eq!(matches_path(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn pattern_of_folder_matches_everything_in_it() {
        for (pattern, path, expected) in [
            ("s?c/*", "src/deep/file", true),
            ("src", "src/deep/file", true),
            ("src/**/*.rs", "src/a.rs/b", true),
            ("src/*.rs", "src/a/b", false),
        ] {
            assert_eq!(matches_path_or_parent(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_do_not_need_exponential_time() {
        let (pattern, name) = (format!("{}b", "a*".repeat(40)), "a".repeat(4000));
        assert!(!matches_name(&pattern, &name));
    }

    #[test]
    fn literal_prefix_ends_before_first_wildcard() {
        for (pattern, expected) in [("src/a/*.rs", "src/a"), ("**/x", ""), ("src/main.rs", "src/main.rs")] {
            assert_eq!(literal_prefix(pattern), expected, "{pattern}");
        }
    }
}
