//! The configuration from outside: strength of sources, one way to say everything in three places, the printed text fed
//! back, and refusals.
use llm_train::commands::cli::{Asked, command, parse};
use llm_train::config::{
    Corpus, Curve, Default, Init, KEYS, Kind, Length, Purpose, Resume, Run, Settings, Source, nearest, resolve,
};
use llm_train::device::Precision;
use llm_train::error::Error;
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

const BASE: [&str; 3] = ["--model", "nano", "--synthetic-data"];

fn run(arguments: &[&str]) -> Result<Run, String> {
    match parse(["llm-train"].iter().chain(arguments).copied()) {
        Ok(Asked::Train(run)) => Ok(*run),
        Ok(other) => panic!("{other:?}"),
        Err(Error::Input(sentence)) => Err(sentence),
        Err(other) => panic!("{other:?}"),
    }
}

fn run_with(more: &[&str]) -> Result<Run, String> {
    run(&[&BASE[..], more].concat())
}

fn refusal(more: &[&str]) -> String {
    let sentence = run_with(more).expect_err("must be refused");
    assert!(!sentence.contains('\n'), "one sentence: {sentence}");
    sentence
}

fn corpora(named: &[(&str, Option<f64>)]) -> Source {
    Source::Corpora(named.iter().map(|(path, weight)| Corpus { path: path.into(), weight: *weight }).collect())
}

/// A file that is gone at the end of the test.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    let name = path.to_str().unwrap().to_string();
    (dir, name)
}

#[test]
fn defaults_then_file_then_set_then_options() {
    let (_dir, toml) = file("[model]\nname = \"nano\"\n[data]\nsynthetic = true\n[optim]\nlr = 1e-3\nbeta1 = 0.8\nclip = 2\n");
    let r = run(&["--config", &toml]).unwrap();
    assert_eq!((r.optim.lr, r.optim.beta1, r.optim.beta2, r.optim.clip), (1e-3, 0.8, 0.95, Some(2.0)));
    let r = run(&["--config", &toml, "--set", "optim.lr=2e-3", "--set", "optim.beta1=0.7"]).unwrap();
    assert_eq!((r.optim.lr, r.optim.beta1), (2e-3, 0.7));
    let r = run(&["--lr", "4e-3", "--config", &toml, "--set", "optim.lr=2e-3"]).unwrap();
    assert_eq!((r.optim.lr, r.optim.min_lr, r.optim.beta1), (4e-3, 4e-4, 0.8));
}

#[test]
fn sizes_given_are_stronger_than_the_presets() {
    let r = run_with(&["--layers", "4", "--set", "model.width=256", "--heads", "8", "--vocab", "2048"]).unwrap();
    let c = &r.model.config;
    assert_eq!((c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.hidden, c.vocab), (4, 256, 8, 8, 32, 1024, 2048));
    let llama =
        run_with(&["--model", "llama3.2-1b", "--width", "256", "--heads", "4", "--kv-heads", "2", "--layers", "2"]).unwrap();
    let c = &llama.model.config;
    assert_eq!((c.heads, c.kv_heads, c.head_dim, c.hidden), (4, 2, 64, 1024));
    let smaller = run_with(&["--model", "gpt2", "--vocab", "300"]).unwrap();
    assert!(smaller.model.config.eos.iter().all(|t| *t < 300), "a special token beyond the vocabulary");
}

/// A value of each key that is not its default.
fn another(path: &str, kind: Kind) -> (&'static str, String) {
    match (path, kind) {
        ("model.name", _) => ("gpt2", "\"gpt2\"".into()),
        ("model.head_dim", _) => ("32", "32".into()),
        ("system.device", _) => ("cpu", "\"cpu\"".into()),
        ("model.init", _) => ("pretrained", "\"pretrained\"".into()),
        ("system.zero", _) => ("1", "1".into()),
        ("train.seed", _) => ("3", "3".into()),
        (_, Kind::Count { .. } | Kind::CountOrMax { .. }) => ("12", "12".into()),
        (_, Kind::Number(_)) => ("0.01", "0.01".into()),
        (_, Kind::Switch(_)) => ("true", "true".into()),
        (_, Kind::Text(_)) => ("some where", "\"some where\"".into()),
        (_, Kind::Choice(choices)) => (choices.rsplit('|').next().unwrap(), format!("{:?}", choices.rsplit('|').next().unwrap())),
        (_, Kind::Time) => ("90m", "\"90m\"".into()),
        (_, Kind::List(_)) => ("a:2", "\"a:2\"".into()),
    }
}

#[test]
fn every_key_can_be_said_in_three_places() {
    for key in KEYS {
        let (typed, toml) = another(&key.path(), key.kind);
        // Each alone, without resolving: some of these values make no run together with the others' defaults.
        let mut of_file = Settings::defaults();
        of_file.read_text(&format!("[{}]\n{} = {toml}\n", key.section, key.name), "run.toml").unwrap();
        let mut of_set = Settings::defaults();
        of_set.set(&format!("{}={typed}", key.path())).unwrap();
        let option = match key.kind {
            _ if key.flag.is_empty() => vec!["--set".to_string(), format!("{}={typed}", key.path())],
            Kind::Switch(_) => vec![format!("--{}", key.flag)],
            _ => vec![format!("--{}", key.flag), typed.to_string()],
        };
        let matches = command().try_get_matches_from([vec!["llm-train".to_string()], option].concat()).unwrap();
        let of_option = llm_train::config::read(&matches).unwrap();
        assert_eq!(of_file, of_set, "{}", key.path());
        assert_eq!(of_file, of_option, "{}", key.path());
        if key.default != Default::Is("true") {
            assert_ne!(of_file, Settings::defaults(), "{}: the value is the default", key.path());
        }
    }
}

#[test]
fn every_key_reaches_the_run() {
    let golden = format!("{}/tests/golden/llama", env!("CARGO_MANIFEST_DIR"));
    // Keys whose value changes nothing but in company; their company is given.
    let company = |path: &str| -> Vec<&str> {
        match path {
            "optim.wsd_decay" => vec!["--schedule", "wsd"],
            "optim.warmup_steps" => vec!["--steps", "100"],
            "optim.min_lr" => vec!["--lr", "0.5"],
            "model.init" => vec!["--model", &golden],
            "model.kv_heads" | "model.heads" => vec!["--width", "384", "--heads", "24", "--head-dim", "16"],
            "train.epochs" => vec!["--no-synthetic-data", "--data", "a"],
            "batch.seq_len" => vec!["--model", "nano"],
            "train.target_loss" => vec!["--val-data", "v"],
            "optim.stochastic_rounding" => vec!["--precision", "bf16"],
            _ => vec![],
        }
    };
    let on_option: HashMap<&str, String> = KEYS.iter().map(|k| (k.flag, format!("--{}", k.flag))).collect();
    let off = |kind| if let Kind::Switch(off) = kind { Some((off, format!("--{off}"))) } else { None };
    let off_option: HashMap<&str, String> = KEYS.iter().filter_map(|k| off(k.kind)).collect();
    for key in KEYS {
        let (typed, _) = another(&key.path(), key.kind);
        let set = format!("{}={typed}", key.path());
        let mut arguments = company(&key.path());
        let before = run_with(&arguments).unwrap();
        match (key.default, key.kind) {
            _ if key.flag == "synthetic-data" => continue, // on throughout
            _ if key.flag.is_empty() => arguments.extend(["--set", &set]),
            (Default::Is("true"), Kind::Switch(off)) => arguments.push(&off_option[off]),
            (_, Kind::Switch(_)) => arguments.push(&on_option[key.flag]),
            _ => arguments.extend([on_option[key.flag].as_str(), typed]),
        }
        if key.flag == "data" {
            arguments.push("--no-synthetic-data");
        }
        let mut after = run_with(&arguments).unwrap_or_else(|e| panic!("{}: {e}", key.path()));
        after.settings = before.settings.clone();
        assert_ne!(before, after, "{} changes nothing", key.path());
    }
}

#[test]
fn the_printed_run_fed_back_is_the_same_run() {
    let golden = format!("{}/tests/golden/qwen3", env!("CARGO_MANIFEST_DIR"));
    let cases: &[&[&str]] = &[
        &BASE,
        &["--model", "gpt2", "--data", "a \"b\"\\c:2", "d\u{e9}:1", "--tokens", "10B", "--max-time", "2h30m", "--clip", "0"],
        &["--model", &golden, "--init", "pretrained", "--data", "x", "--epochs", "2.5", "--schedule", "wsd", "--seq-len", "16"],
        &[
            "--model",
            "nano",
            "--layers",
            "3",
            "--synthetic-data",
            "--global-batch",
            "48",
            "--lr",
            "0.30000000000000004",
            "--keep-every",
            "7",
        ],
        &["--model", "nano", "--data", "a", "--val-data", "v", "w", "--precision", "bf16", "--zero", "1", "--recompute", "block"],
        &[
            "--model",
            "nano",
            "--data",
            "a",
            "--resume",
            "some/dir",
            "--no-decay-embeddings",
            "--threads",
            "3",
            "--quiet",
            "--json",
            "r.json",
        ],
    ];
    for case in cases {
        let mut first = run(case).unwrap();
        for settled in [false, true] {
            if settled {
                first.validate_for(3).unwrap();
            }
            for text in [first.to_toml(), first.describe()] {
                let (_dir, toml) = file(&text);
                let again = run(&["--config", &toml]).unwrap_or_else(|e| panic!("{e}\n{text}"));
                assert_eq!(again, first, "{text}");
                assert_eq!(again.to_toml(), first.to_toml());
            }
        }
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    assert_eq!(refusal(&["--set", "optim.lrr=1"]), "unknown key optim.lrr in --set; the nearest known one is optim.lr (--lr)");
    assert!(refusal(&["--lrr", "1"]).contains("--lr"));
    for (text, meant) in [
        ("[optim]\nlrr = 1", "optim.lr"),
        ("lr = 1", "optim.lr"),
        ("[optm]\nlr = 1", "[optim]"),
        ("[batsh]", "[batch]"),
        ("[hyper]\nlr = 1", "optim.lr"),
    ] {
        let (_dir, toml) = file(text);
        let sentence = refusal(&["--config", &toml]);
        assert!(sentence.starts_with("unknown") && sentence.contains(meant) && sentence.contains(&toml), "{sentence}");
    }
    assert_eq!(nearest("system.precison").path(), "system.precision");
}

#[test]
fn wrong_types_are_one_sentence_with_key_expected_and_found() {
    for (text, words) in [
        ("[optim]\nlr = \"fast\"", ["optim.lr", "a number above 0", "\"fast\""]),
        ("[optim]\nlr = inf", ["optim.lr", "a number above 0", "inf"]),
        ("[optim]\nlr = nan", ["optim.lr", "a number above 0", "NaN"]),
        ("[optim]\nclip = -1", ["optim.clip", "not below 0", "-1"]),
        ("[train]\nsteps = 1.5", ["train.steps", "a whole number", "1.5"]),
        ("[train]\nsteps = -3", ["train.steps", "a whole number", "-3"]),
        ("[train]\nsteps = []", ["train.steps", "a whole number", "a list"]),
        ("[data]\ncheck = 1", ["data.check", "true or false", "1"]),
        ("[data]\ntrain = [1]", ["data.train", "list of texts", "a list"]),
        ("[model]\nname = 3", ["model.name", "a text", "3"]),
        ("[system]\nzero = 2", ["system.zero", "0 or 1", "2"]),
        ("[system]\nprecision = \"fp8\"", ["system.precision", "fp32, tf32, bf16, bf16-true", "fp8"]),
        ("[system]\nreduce = \"fp16\"", ["system.reduce", "f32, bf16", "fp16"]),
        ("[system]\nnondeterministic = 1", ["system.nondeterministic", "true or false", "1"]),
        ("[optim]\nstochastic_rounding = \"yes\"", ["optim.stochastic_rounding", "true or false", "yes"]),
        ("[train]\nmax_time = \"soon\"", ["train.max_time", "a time", "soon"]),
        ("[optim", ["line 1", "expected TOML", "mistake"]),
    ] {
        let (_dir, toml) = file(text);
        let sentence = refusal(&["--config", &toml]);
        assert!(words.iter().all(|w| sentence.contains(w)) && sentence.contains(&toml), "{text}: {sentence}");
    }
    assert_eq!(refusal(&["--lr", "fast"]), "--lr (optim.lr): expected a number above 0, found \"fast\"");
    assert_eq!(refusal(&["--lr", "-1"]), "--lr (optim.lr): expected a number above 0, found \"-1\"");
    assert_eq!(refusal(&["--set", "train.steps=many"]), "--set train.steps: expected a whole number from 1, found \"many\"");
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    for (arguments, words) in [
        (&["--global-batch", "0"][..], "--global-batch"),
        (&["--seq-len", "100000000"], "the model's context, 256"),
        (&["--width", "100", "--heads", "3"], "not divisible"),
        (&["--device", "cpu", "--precision", "tf32"], "expected fp32, bf16 or bf16-true on the CPU, found tf32"),
        (&["--device", "cpu", "--reduce", "bf16"], "expected f32 on the CPU, found bf16"),
        (&["--comm", "mpi", "--reduce", "bf16"], "expected f32 where MPI carries gradients (--comm mpi), found bf16"),
        (&["--device", "cpu", "--nondeterministic"], "expected a GPU, for the CPU has one order of sums"),
        (
            &["--device", "cpu", "--precision", "bf16", "--stochastic-rounding"],
            "expected --precision bf16-true, or a GPU, where weights have copies in bf16",
        ),
        (
            &["--precision", "tf32", "--stochastic-rounding"],
            "expected --precision bf16 or bf16-true, whose weights it rounds, found tf32",
        ),
        (&["--steps", "5", "--warmup-steps", "6"], "at most the run's 5 steps, found 6"),
        (&["--lr", "1e-4", "--min-lr", "1e-3"], "at most optim.lr"),
        (&["--steps", "5", "--epochs", "1"], "one length"),
        (&["--epochs", "1"], "no epochs"),
        (&["--data", "a"], "found both"),
        (&["--no-synthetic-data", "--data", "a:-1"], "a weight above 0 for a, found -1"),
        (&["--no-synthetic-data", "--data", "a:nan"], "a weight above 0 for a, found NaN"),
        (&["--no-synthetic-data", "--data", "a:1", "b"], "for every corpus or for none, found none for b"),
        (&["--device", "gpu"], "auto, cpu, cuda"),
        (&["--init", "pretrained"], "has no weights"),
        (&["--model", "nanoo"], "did you mean nano?"),
        (&["--micro-batch", "2000000000", "--model", "llama3-8b"], "fits some machine"),
    ] {
        let sentence = refusal(arguments);
        assert!(sentence.contains(words), "{arguments:?}: {sentence}");
    }
    assert!(run(&["--model", "nano"]).unwrap_err().contains("--synthetic-data"));
    assert!(run(&["--synthetic-data"]).unwrap_err().contains("gpt2"), "the presets are listed");
    let mut few = run_with(&["--global-batch", "2"]).unwrap();
    let sentence = few.validate_for(3).unwrap_err().to_string();
    assert!(sentence.contains("3 ranks, found 2"), "{sentence}");
}

fn again(toml: &str) -> Run {
    run(&["--config", toml]).unwrap()
}

/// Weights that are bf16 alone are rounded at random, unless someone says otherwise; no other precision changes.
#[test]
fn bf16_true_brings_stochastic_rounding() {
    let rounds = |arguments: &[&str]| {
        let run = run_with(arguments).unwrap();
        let (_dir, toml) = file(&run.to_toml());
        assert_eq!(again(&toml), run, "{arguments:?}");
        (run.system.precision_name(), run.system.weights_bf16, run.optim.stochastic_rounding)
    };
    let (_dir, toml) = file("[system]\nprecision = \"bf16-true\"\n[optim]\nstochastic_rounding = false\n");
    for (arguments, expected) in [
        (&["--precision", "fp32"][..], ("fp32", false, false)),
        (&["--precision", "bf16"], ("bf16", false, false)),
        (&["--precision", "bf16-true"], ("bf16-true", true, true)),
        (&["--precision", "bf16-true", "--no-stochastic-rounding"], ("bf16-true", true, false)),
        (&["--config", &toml], ("bf16-true", true, false)),
        (&["--config", &toml, "--stochastic-rounding"], ("bf16-true", true, true)),
        (&["--device", "cpu", "--precision", "bf16-true"], ("bf16-true", true, true)),
    ] {
        assert_eq!(rounds(arguments), expected, "{arguments:?}");
    }
}

#[test]
fn a_stronger_word_on_length_or_data_replaces_the_weaker() {
    let (_dir, toml) = file("[model]\nname = \"nano\"\n[data]\ntrain = [\"a:2\", \"b:1\"]\n[train]\nsteps = 7\n");
    assert_eq!(run(&["--config", &toml]).unwrap().train.length, Length::Steps(7));
    let r = run(&["--config", &toml, "--tokens", "1M"]).unwrap();
    assert_eq!((r.train.length, r.data.source), (Length::Tokens(1_000_000), corpora(&[("a", Some(2.0)), ("b", Some(1.0))])));
    assert_eq!(run(&["--config", &toml, "--synthetic-data"]).unwrap().data.source, Source::Synthetic);
    assert_eq!(
        run(&["--config", &toml, "--data", "c", "--data", "d", "e:f"]).unwrap().data.source,
        corpora(&[("c", None), ("d", None), ("e:f", None)])
    );
}

#[test]
fn lengths_and_batches_settle_when_ranks_and_corpus_are_known() {
    let mut r = run(&["--model", "nano", "--data", "a", "--micro-batch", "4", "--seq-len", "100"]).unwrap();
    r.validate_for(3).unwrap();
    assert_eq!((r.global_batch(), r.tokens_per_step()), (12, 1200));
    assert_eq!(r.steps(25).unwrap(), 3, "25 windows in batches of 12");
    r.train.length = Length::Tokens(1201);
    assert_eq!(r.steps(25).unwrap(), 2);
    assert_eq!((r.warmup_steps(1000), r.warmup_steps(50)), (10, 0));
    r.optim.warmup_steps = Some(3);
    assert!(r.steps(25).unwrap_err().to_string().contains("at most the run's 2 steps, found 3"));
}

#[test]
fn values_arrive_as_meant() {
    let r = run_with(&[
        "--precision",
        "bf16",
        "--clip",
        "0",
        "--schedule",
        "wsd",
        "--wsd-decay",
        "0.3",
        "--resume",
        "never",
        "--max-time",
        "02:00:00",
    ]);
    let r = r.unwrap();
    assert_eq!((r.system.precision, r.optim.clip, r.optim.schedule), (Precision::Bf16, None, Curve::Wsd { decay: 0.3 }));
    assert_eq!((r.checkpoint.resume, r.train.max_time, r.eval.every), (Resume::Never, Some(7200), None));
    let golden = format!("{}/tests/golden/gpt2", env!("CARGO_MANIFEST_DIR"));
    let by_file = run_with(&["--model", &format!("{golden}/config.json"), "--init", "pretrained", "--seq-len", "8"]).unwrap();
    assert_eq!(by_file.model.init, Init::Pretrained(PathBuf::from(&golden)));
    assert_eq!(by_file.model.config, run_with(&["--model", &golden, "--seq-len", "8"]).unwrap().model.config);
    // The last word counts, and a switch has an opposite.
    assert!(!run_with(&["--check-data", "--no-check-data"]).unwrap().data.check);
    assert!(run_with(&["--no-check-data", "--check-data"]).unwrap().data.check);
    assert_eq!(run_with(&["--lr", "1", "--lr", "2"]).unwrap().optim.lr, 2.0);
}

#[test]
fn the_help_names_every_option_and_the_exit_codes() {
    let Ok(Asked::Text(help)) = parse(["llm-train", "--help"]) else { panic!("no help") };
    for key in KEYS.iter().filter(|key| !key.flag.is_empty()) {
        let shown = match (key.default, key.kind) {
            (Default::Is("true"), Kind::Switch(off)) => off,
            _ => key.flag,
        };
        assert!(
            help.contains(&format!("--{shown} "))
                || help.contains(&format!("--{shown}["))
                || help.contains(&format!("--{shown}\n")),
            "{shown}"
        );
    }
    for words in ["75  stopped early", "RUST_LOG=llm_train=debug", "llama3-8b", "--config", "--set", "[default: 3e-4]"] {
        assert!(help.contains(words), "{words}");
    }
    assert!(help.lines().all(|l| l.chars().count() <= 120), "fits a screen");
    assert!(matches!(parse(["llm-train", "--version"]), Ok(Asked::Text(v)) if v.contains(env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_side_commands_are_read() {
    let Ok(Asked::Plan(run, plan)) = parse(["llm-train", "plan", "--model", "llama3-8b", "--ranks", "64", "--zero", "1"]) else {
        panic!("plan needs no data")
    };
    assert_eq!((plan.ranks, run.system.zero, run.model.config.layers), (64, 1, 32));
    let Ok(Asked::Eval(eval)) = parse(["llm-train", "eval", "--model", "m", "--data", "a", "b", "--eval-batches", "4"]) else {
        panic!("eval")
    };
    assert_eq!((eval.data.len(), eval.eval_batches), (2, 4));
    assert!(
        matches!(parse(["llm-train", "generate", "--model", "m", "--prompt", "p", "--top-p", "2"]), Err(Error::Input(e)) if e.contains("--top-p"))
    );
    assert!(matches!(parse(["llm-train", "evall"]), Err(Error::Input(e)) if e.contains("did you mean eval?")));
}

#[test]
fn the_example_job_is_a_run() {
    let toml = format!("{}/jobs/generic/run.toml", env!("CARGO_MANIFEST_DIR"));
    let mut r = run(&["--config", &toml]).unwrap();
    for ranks in [1, 2, 64] {
        r.validate_for(ranks).unwrap();
        assert_eq!((r.global_batch(), r.steps(4266).unwrap(), r.warmup_steps(2000)), (64, 2000, 100));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the text, there is an answer or a sentence.
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = Settings::defaults().read_text(&text, "run.toml");
        let _ = Settings::defaults().set(&text);
    }

    /// TOML of known keys with any values.
    #[test]
    fn any_values_are_answered(lines in proptest::collection::vec((0..KEYS.len(), "[-+]?[0-9]{0,20}(\\.[0-9]{1,4})?(e[0-9]{1,3})?|\"[^\"\\\\\\n]{0,9}\"|true|inf|\\[\\]|\\[\"a\", 1\\]|\\{\\}|1979-05-27"), 0..12)) {
        let mut settings = Settings::defaults();
        for (at, value) in &lines {
            let _ = settings.read_text(&format!("[{}]\n{} = {value}\n", KEYS[*at].section, KEYS[*at].name), "run.toml");
            let _ = settings.set(&format!("{}={value}", KEYS[*at].path()));
        }
        let _ = settings.set("model.name=nano");
        if let Ok(run) = resolve(settings, Purpose::Plan) {
            let mut again = Settings::defaults();
            again.read_text(&run.to_toml(), "run.toml").unwrap();
            prop_assert_eq!(resolve(again, Purpose::Plan).unwrap(), run);
        }
    }

    /// Any arguments in any order.
    #[test]
    fn any_arguments_are_answered(words in proptest::collection::vec("--[a-z-]{0,9}|[a-z0-9:.=-]{0,9}|--(lr|data|set|steps|model|zero)", 0..8)) {
        let _ = parse(std::iter::once("llm-train".to_string()).chain(words));
    }
}
