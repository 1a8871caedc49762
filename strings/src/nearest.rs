//! Spelling suggestions ("did you mean"): finds the known word that is most similar to a misspelt one.

/// The word of `known` with the smallest edit distance. `None` if two words have this distance, or if it is larger than
/// two (one for words of at most three letters). Ignores case.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = if word.chars().count() <= 3 { 1 } else { 2 };
    let mut best: Option<(usize, &str)> = None;
    let mut is_tied = false;
    for candidate in known {
        // The difference in length is a lower bound of the distance, and cheaper.
        if candidate.chars().count().abs_diff(word.chars().count()) > limit {
            continue;
        }
        let distance = edit_distance(&word.to_lowercase(), &candidate.to_lowercase());
        match best {
            Some((least, _)) if distance > least => {}
            Some((least, _)) if distance == least => is_tied = true,
            _ => {
                best = Some((distance, candidate));
                is_tied = false;
            }
        }
    }
    best.filter(|(least, _)| *least <= limit && !is_tied).map(|(_, candidate)| candidate)
}

/// Edit distance in which a swap of two neighbours counts as one edit (optimal string alignment).
#[must_use]
pub fn edit_distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut previous_row: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, &a) in left.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, &b) in right.iter().enumerate() {
            let mut cost = (row[j] + usize::from(a != b)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a == right[j - 1] && left[i - 1] == b {
                cost = cost.min(previous_row[j - 1] + 1);
            }
            next.push(cost);
        }
        previous_row = std::mem::replace(&mut row, next);
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unique_near_match_is_suggested() {
        let cases: &[(&str, &[&str], Option<&str>)] = &[
            ("helth", &["health", "image"], Some("health")),
            ("haelth", &["health"], Some("health")),
            ("hostconfig", &["HostConfig"], Some("HostConfig")),
            ("ulr", &["url", "host"], Some("url")),
            ("portt", &["port", "ports"], None),
            ("db", &["web", "api"], None),
            ("whatever", &["image"], None),
            ("", &["url"], None),
        ];
        for (word, known, expected) in cases {
            assert_eq!(nearest(word, known.iter().copied()), *expected, "{word}");
        }
    }

    #[test]
    fn edit_distance_counts_swap_of_neighbours_once() {
        for (left, right, expected) in
            [("main", "main", 0), ("amin", "main", 1), ("kitten", "sitting", 3), ("", "é", 1)]
        {
            assert_eq!(edit_distance(left, right), expected, "{left} {right}");
        }
    }
}
