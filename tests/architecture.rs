//! The arrows of `src/lib.rs`, held: a module uses only what the table allows it, the outside libraries stay behind their
//! doors, and `unsafe` behind fewer.
use std::path::{Path, PathBuf};

/// Who may use whom, as in the map at the head of `src/lib.rs`. `error` is everyone's.
const ARROWS: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("device", &["tensor"]),
    ("ops", &["device", "tensor"]),
    ("model", &["ops", "device", "tensor"]),
    ("comm", &["device", "tensor"]),
    ("optim", &["ops", "model", "device", "tensor"]),
    ("parallel", &["model", "comm", "ops", "device", "tensor"]),
    ("data", &["ops"]),
    ("metrics", &[]),
    ("launch", &["comm", "metrics"]),
    ("config", &["optim", "model", "device"]),
    ("checkpoint", &["parallel", "optim", "model", "data", "device", "tensor"]),
];

/// Which module alone may name an outside library.
const DOORS: &[(&str, &[&str])] = &[
    ("mpi::", &["comm"]),
    ("cudarc::", &["device"]),
    ("hdf5::", &["metrics"]),
    ("rayon::", &["data", "commands"]),
    ("memmap2::", &["data", "checkpoint"]),
    ("clap::", &["commands", "config"]),
    ("clap_complete::", &["commands"]),
    ("clap_mangen::", &["commands"]),
    ("signal_hook::", &["launch"]),
];

/// Whoever may write `unsafe`.
const UNSAFE: &[&str] = &["device", "ops", "comm", "data"];

struct Source {
    path: PathBuf,
    module: String,
    /// Without comments, text and unit tests.
    code: String,
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut all) = (vec![src.clone()], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(&src).unwrap();
                let module = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
                let code = code(&std::fs::read_to_string(&path).unwrap());
                all.push(Source { path, module, code });
            }
        }
    }
    assert!(all.len() > 50, "the sources were not found");
    all
}

/// What the compiler sees of a file outside its tests, near enough: strings are emptied, comments left out.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut out = String::new();
    for line in text.lines() {
        let (mut quoted, mut before) = (false, ' ');
        for (i, c) in line.char_indices() {
            match c {
                '"' if before != '\\' && before != '\'' => quoted = !quoted,
                '/' if !quoted && line[i..].starts_with("//") => break,
                _ if !quoted => out.push(c),
                _ => (),
            }
            before = c;
        }
        out.push('\n');
    }
    out
}

/// Names of the crate's modules that follow `crate::`, also within braces: `use crate::{comm, model::Group}`.
fn used(code: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut all = vec![];
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            None => all.push(name(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => all.push(name(std::mem::take(&mut item).trim())),
                        _ if depth == 0 => item.push(c),
                        _ => (),
                    }
                }
                all.push(name(item.trim()));
            }
        }
    }
    all
}

fn wrong_arrows(sources: &[Source]) -> Vec<String> {
    let mut wrong = vec![];
    for source in sources {
        let Some((_, allowed)) = ARROWS.iter().find(|(module, _)| *module == source.module) else { continue };
        for name in used(&source.code) {
            let module = ARROWS.iter().any(|(m, _)| *m == name) || name == "commands";
            if module && name != source.module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {} may not use {name}", source.path.display(), source.module));
            }
        }
    }
    wrong
}

#[test]
fn a_module_uses_only_what_stands_right_of_it() {
    let sources = sources();
    for source in &sources {
        let known =
            ARROWS.iter().any(|(m, _)| *m == source.module) || ["lib", "main", "error", "commands"].contains(&&*source.module);
        assert!(known, "{}: a module without arrows", source.path.display());
    }
    assert_eq!(wrong_arrows(&sources), Vec::<String>::new());
}

#[test]
fn outside_libraries_stay_behind_their_doors() {
    for source in sources() {
        for (library, doors) in DOORS {
            let inside = |at: usize| {
                let before = source.code[..at].chars().next_back();
                before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
            };
            let named = source.code.match_indices(library).any(|(at, _)| inside(at));
            assert!(!named || doors.contains(&&*source.module), "{} names {library}", source.path.display());
        }
    }
}

#[test]
fn unsafe_stays_behind_fewer() {
    for source in sources() {
        let written = ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|u| source.code.contains(u));
        assert!(!written || UNSAFE.contains(&&*source.module), "{} writes unsafe", source.path.display());
    }
}

#[test]
fn this_test_can_fail() {
    let planted =
        |module: &str, text: &str| wrong_arrows(&[Source { path: module.into(), module: module.into(), code: code(text) }]);
    assert_eq!(planted("model", "use crate::comm::Mpi;").len(), 1);
    assert_eq!(planted("ops", "use crate::{\n    device::Device,\n    model::{Group, Pass},\n};").len(), 1);
    assert_eq!(planted("optim", "fn f() { crate::parallel::owned() }").len(), 1);
    assert_eq!(planted("model", "// use crate::comm::Mpi;\nlet x = \"crate::comm\";").len(), 0);
    assert_eq!(planted("model", "#[cfg(test)]\nmod tests {\n    use crate::comm::Mpi;\n}").len(), 0);
}
