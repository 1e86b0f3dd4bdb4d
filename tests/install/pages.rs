//! `docs/install.md`: every command in it is one that a test runs, or is said to be the site's.
use crate::root;

/// Files whose commands a person may type as they stand in the page.
const RUN_BY: [&str; 6] = [
    "tests/install/prefix.rs",
    "tests/install/modules.rs",
    "tests/install/version.rs",
    "tests/install/bundle.rs",
    "tests/install/main.rs",
    "scripts/site-check.sh",
];

/// Blocks of commands of the page: `shell` is run by a test of this folder, `site` is not. (`sh` would be run by tests/docs.rs as it
/// stands, and these build and install.)
fn blocks(page: &str) -> Vec<(String, Vec<String>)> {
    let (mut all, mut inside): (Vec<(String, Vec<String>)>, bool) = (vec![], false);
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(kind) if !inside => {
                all.push((kind.to_string(), vec![]));
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => all.last_mut().unwrap().1.push(line.to_string()),
            None => (),
        }
    }
    assert!(!inside, "a block without an end");
    all
}

/// Script and options of a line, in no order: what a test must have in common with it.
fn words(line: &str) -> Vec<String> {
    let command = line.split(" #").next().unwrap();
    let named =
        |word: &&str| word.starts_with("--") || word.contains("scripts/") || ["load", "use", "install-pages"].contains(word);
    command.split_whitespace().filter(named).map(|w| w.trim_start_matches("./").to_string()).collect()
}

#[test]
fn every_command_of_the_page_is_run_by_a_test() {
    let page = std::fs::read_to_string(root().join("docs/install.md")).unwrap();
    let tests: String = RUN_BY.iter().map(|file| std::fs::read_to_string(root().join(file)).unwrap()).collect();
    let blocks = blocks(&page);
    let of = |kind: &str| blocks.iter().filter(|(k, _)| k == kind).flat_map(|(_, lines)| lines).collect::<Vec<_>>();
    assert!(blocks.iter().all(|(kind, _)| ["shell", "site", "text"].contains(&kind.as_str())), "shell, site or text");
    assert!(of("shell").len() >= 8 && !of("site").is_empty());
    for line in of("shell") {
        for word in words(line) {
            assert!(tests.contains(&word), "{word:?} of `{line}` is in none of {RUN_BY:?}");
        }
        let script = line.split_whitespace().find(|w| w.contains("scripts/"));
        script.into_iter().for_each(|s| assert!(root().join(s.trim_start_matches("./")).is_file(), "{s}"));
    }
}
