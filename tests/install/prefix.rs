//! The tree that an installation is.
use crate::{bash, done, installed, root, text};
use std::path::Path;

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn everything_is_there_and_runs() {
    let prefix = installed();
    for file in [
        "share/llm-train/jobs/generic/job.sbatch",
        "share/llm-train/jobs/generic/run.toml",
        "share/llm-train/data/kjv.txt.gz",
        "share/llm-train/data/kjv.tokenizer.json",
        "share/llm-train/plot_metrics.py",
        concat!("modulefiles/llm-train/", env!("CARGO_PKG_VERSION"), ".lua"),
        concat!("modulefiles/llm-train/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(prefix.join(file).is_file(), "{file}");
    }
    let plan = done(&format!("'{}/bin/llm-train' plan --model nano --seq-len 128 --micro-batch 1", prefix.display()));
    assert!(plan.contains("parameters"), "{plan}");
}

#[test]
fn man_pages_say_what_the_help_says() {
    let man = installed().join("share/man/man1");
    let page = read(&man.join("llm-train.1"));
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "EXIT STATUS",
        "SIGNALS",
        "ENVIRONMENT",
        "FILES",
        "MODELS",
        "EXAMPLES",
        "SEE ALSO",
    ] {
        let heading = |line: &str| line.strip_prefix(".SH ").is_some_and(|title| title.trim_matches('"') == section);
        assert!(page.lines().any(heading), "no section {section}");
    }
    for code in ["0", "1", "2", "75"] {
        assert!(page.contains(&format!(".TP\n\\fB{code}\\fR\n")), "exit code {code}");
    }
    // Each long option of the help stands in the page, and each command has a page of its own, which the help's list names.
    let help = done(&format!("'{}/bin/llm-train' --help", installed().display()));
    let plain = page.replace('\\', "");
    let options: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 3).collect();
    assert!(options.len() > 40, "{help}");
    for option in options {
        let name = option.split(['=', '[', ',', '.']).next().unwrap();
        assert!(plain.contains(name), "{name} is not in the page");
    }
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let commands: Vec<&str> =
        commands.filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next()).filter(|c| *c != "help").collect();
    assert!(commands.len() >= 6, "{help}");
    for command in commands {
        let own = read(&man.join(format!("llm-train-{command}.1")));
        assert!(own.contains(".SH \"EXIT STATUS\"") && own.contains(".SH SYNOPSIS"), "{command}");
        assert!(plain.contains(&format!("llm-train-{command}")), "{command} is not listed");
    }
    assert!(man.join("llm-train-bench-step.1").is_file());
    assert!(!page.contains("install-pages"), "what is only for installing is not spoken of");
    // Where there is a man, it finds the page and has nothing to complain of.
    if bash("command -v man && command -v groff").status.success() {
        let shown = bash(&format!("MANPATH='{}/share/man' LC_ALL=C man --warnings -P cat llm-train", installed().display()));
        let words = text(&shown);
        assert!(shown.status.success() && words.contains("EXIT STATUS") && !words.contains("warning:"), "{words}");
    }
}

/// bash itself is asked what it would offer.
#[test]
fn completions_offer_options_and_commands() {
    let file = installed().join("share/bash-completion/completions/llm-train");
    let offered = |typed: &str| {
        let words: Vec<&str> = typed.split(' ').collect();
        let list = words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        done(&format!(
            "source '{}'; COMP_WORDS=({list}); COMP_CWORD={}; $(complete -p llm-train | sed 's/.*-F \\([^ ]*\\) .*/\\1/') llm-train '{last}' '{before}'; echo ${{COMPREPLY[*]}}",
            file.display(),
            words.len() - 1
        ))
    };
    let all = offered("llm-train --micro");
    assert!(all.contains("--micro-batch"), "{all}");
    assert!(offered("llm-train tok").contains("tokenize"));
    assert!(offered("llm-train plan --ran").contains("--ranks"));
    assert!(!offered("llm-train inst").contains("install-pages"), "what is only for installing is not spoken of");
    let zsh = read(&installed().join("share/zsh/site-functions/_llm-train"));
    assert!(zsh.starts_with("#compdef llm-train") && zsh.contains("--micro-batch"));
    assert!(read(&installed().join("share/fish/vendor_completions.d/llm-train.fish")).contains("-l micro-batch"));
}

/// What was built elsewhere is installed where there is neither Rust nor a compiler.
#[test]
fn a_program_that_is_there_takes_nothing_to_build() {
    let somewhere = tempfile::tempdir().unwrap();
    let (tools, prefix) = (somewhere.path().join("tools"), somewhere.path().join("prefix"));
    done(&format!(
        "mkdir '{0}' && for tool in bash env awk basename cat chmod cp dirname id install ldconfig mkdir sed sort tail head; do \
         found=$(PATH=$PATH:/usr/sbin command -v $tool) && ln -s \"$found\" '{0}/' || true; done",
        tools.display()
    ));
    let install = format!("scripts/install.sh --program '{}' --prefix '{}'", crate::program::PROGRAM, prefix.display());
    let said = done(&format!("env -i PATH='{}' HOME='{}' bash {install}", tools.display(), somewhere.path().display()));
    assert!(said.contains("installed llm-train") && prefix.join("bin/llm-train").is_file(), "{said}");
}

#[test]
fn what_cannot_be_is_one_sentence_and_exit_2() {
    let somewhere = tempfile::tempdir().unwrap();
    let to = format!("--prefix '{}'", somewhere.path().join("p").display());
    for (options, parts) in [
        (String::new(), ["--prefix DIR", "missing"]),
        (format!("{to} --color"), ["found --color", "--static-hdf5"]),
        (format!("{to} --prefix"), ["--prefix", "needs a value"]),
        (format!("{to} --target-cpu cray1"), ["rustc --print target-cpus", "cray1"]),
        (format!("{to} --program nowhere"), ["--program nowhere", "expected a program"]),
        (format!("{to} --program src"), ["--program src", "expected a program"]),
        (format!("{to} --program /bin/true"), ["--program /bin/true", "expected a program"]),
        (format!("{to} --offline nowhere.tar.zst"), ["nowhere.tar.zst", "scripts/vendor.sh"]),
        ("--prefix /proc/here".into(), ["/proc/here", "cannot be written"]),
    ] {
        let output = bash(&format!("scripts/install.sh {options}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("install: ")).collect();
        assert_eq!((output.status.code(), ours.len()), (Some(2), 1), "{options}\n{said}");
        parts.iter().for_each(|part| assert!(ours[0].contains(part), "{part}: {said}"));
    }
    let old = somewhere.path().join("cmake");
    std::fs::write(&old, "#!/bin/sh\necho cmake version 3.25.1\n").unwrap();
    let output = bash(&format!("chmod +x '{0}'; CMAKE='{0}' scripts/install.sh {to} --static-hdf5", old.display()));
    assert!(output.status.code() == Some(2) && text(&output).contains("CMake 3.26 or newer, found 3.25.1"), "{}", text(&output));
    let output = bash(&format!("CMAKE=/no/cmake scripts/install.sh {to} --static-hdf5"));
    assert!(output.status.code() == Some(2) && text(&output).contains("CMake 3.26 or newer, found none"), "{}", text(&output));
    let output = bash(&format!("MPICC=mpicc.nope scripts/install.sh {to}"));
    assert!(output.status.code() == Some(2) && text(&output).contains("found no mpicc.nope"), "{}", text(&output));
    let output = bash(&format!("HDF5_DIR=/nope scripts/install.sh {to}"));
    assert!(
        output.status.code() == Some(2) && text(&output).contains("include/hdf5.h, found none in /nope"),
        "{}",
        text(&output)
    );
    assert!(root().join("scripts/install.sh").is_file());
}
