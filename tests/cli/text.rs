//! From text to text: tokenize, train, eval, generate.
use crate::program::{Job, alone, ranks};
use crate::scene::{Scene, names};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Some 400 KB of the shipped text in three files.
fn prose(scene: &Scene) -> String {
    let file = std::fs::File::open(Path::new(ROOT).join("data/kjv.txt.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let cut = |at: usize| at + text[at..].find("\n\n").unwrap() + 2;
    let (a, b, c) = (cut(50_000), cut(200_000), cut(400_000));
    let parts = [&text[..a], &text[a..b], &text[b..c]];
    let files = parts.iter().enumerate().map(|(i, part)| scene.write(&format!("part-{i}.txt"), part));
    files.collect::<Vec<_>>().join(" ")
}

fn tokenizer() -> String {
    Path::new(ROOT).join("data/kjv.tokenizer.json").display().to_string()
}

#[test]
fn tokenize_gives_the_same_bytes_on_any_number_of_ranks() {
    let scene = Scene::new();
    let files = prose(&scene);
    let mut first: Option<Vec<(String, Vec<u8>)>> = None;
    for n in 1..=3 {
        let folder = scene.path(&format!("on-{n}"));
        let how = "--split paragraph --append-eod --val-fraction 0.1 --unit-bytes 30000 --threads 1";
        let ended = ranks(n, &format!("tokenize --input {files} --output {folder}/text --train-vocab 400 {how}")).done();
        assert!(ended.out.contains("documents") && ended.out.contains("MB/s"), "{ended}");
        let made: Vec<_> = names(Path::new(&folder))
            .into_iter()
            .map(|name| (name.clone(), std::fs::read(format!("{folder}/{name}")).unwrap()))
            .collect();
        let first = first.get_or_insert_with(|| made.clone());
        let of = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(of(first), of(&made));
        assert!(first.len() >= 5, "{:?}", of(first));
        first.iter().zip(&made).for_each(|((name, a), (_, b))| assert!(a == b, "{name} differs on {n} ranks"));
    }
    let missing =
        ranks(2, &format!("tokenize --input {} --output {} --train-vocab 400", scene.path("none.txt"), scene.path("no/text")));
    missing.run().with_code(2).sentence(&["none.txt"]);
    assert!(!Path::new(&scene.path("no")).exists());
}

#[test]
fn a_model_of_text_is_evaluated_and_writes() {
    let scene = Scene::new();
    let corpus = scene.path("corpus/text");
    let how = format!("--tokenizer {} --split paragraph --append-eod --val-fraction 0.1", tokenizer());
    alone(&format!("tokenize --input {} --output {corpus} {how}", prose(&scene))).done();
    let model =
        scene.model("text.json", serde_json::json!({ "vocab_size": 2048, "max_position_embeddings": 4096, "eos_token_id": 0 }));
    let run = format!(
        "{} --model {model} --data {corpus} --val-data {corpus}-val --micro-batch 4 --global-batch 8 --lr 5e-3 --steps 40 \
         --eval-batches 3",
        scene.options("run")
    );
    let trained = ranks(2, &run).done();
    let left = scene.run("run");
    let losses = left.losses();
    assert!(losses[39] < losses[0] - 1.0, "it does not learn: {losses:?}");
    let (dir, history) = (left.checkpoint(40), left.history());
    let (own, set) = (history.evaluations[0].points[0], &history.evaluations[0].set);

    // The loop's evaluation again, from outside: 3 batches of 2 ranks × 4 sequences are 6 of 4.
    let file = scene.path("eval.json");
    let options =
        format!("eval --model {} --data {corpus}-val --seq-len 32 --micro-batch 4 --eval-batches 6 --json {file}", dir.display());
    let evaluated = alone(&options).done();
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key}: {json}"));
    assert!((number("loss") - own.loss).abs() < 1e-5, "{} is not {}", number("loss"), own.loss);
    assert!((number("perplexity") / number("loss").exp() - 1.0).abs() < 1e-9);
    assert_eq!(number("targets"), 24.0 * 32.0);
    let bits = own.loss / std::f64::consts::LN_2 / set.bytes_per_token.expect("the tokenizer tells bytes");
    assert!((number("bits_per_byte") - bits).abs() < 1e-4 && bits > 1.0 && bits < 5.0, "{bits}: {json}");
    assert!(trained.after("bits per byte:").starts_with(&format!("{bits:.3}")), "{trained}");
    assert!(evaluated.out.contains("bits_per_byte"), "{evaluated}");

    // Greedy is greedy; other seeds, other words; the same seed, the same words.
    let write = |options: &str| {
        let file = scene.path("text.json");
        let job = alone(&format!("generate --model {} --max-tokens 30 --json {file} {options} --prompt", dir.display()));
        let ended = job.and("And God said unto").done();
        let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let text = json["text"].as_str().unwrap().to_string();
        assert_eq!(ended.out, format!("And God said unto{text}\n"));
        assert!(json["tokens"].as_u64().unwrap() <= 30 && json["tokens_per_second"].as_f64().unwrap() > 0.0, "{json}");
        text
    };
    assert_eq!(write("--temperature 0"), write("--temperature 0 --seed 9"));
    assert_eq!(write("--temperature 0"), write("--temperature 5 --top-k 1"));
    assert_eq!(write("--seed 3"), write("--seed 3"));
    assert_ne!(write("--seed 3"), write("--seed 4"));

    // It streams: words come while the process is still writing.
    let job = alone(&format!("generate --model {} --max-tokens 4000 --threads 1 --prompt", dir.display())).and("In");
    streams(job);
    for (options, parts) in [("--prompt A --model nowhere", &["nowhere"][..]), ("--prompt A --temperature -1", &["temperature"])]
    {
        let model = if options.contains("--model") { String::new() } else { format!("--model {}", dir.display()) };
        alone(&format!("generate {model} {options}")).run().with_code(2).sentence(parts);
    }
    let run = dir.ancestors().nth(2).expect("a checkpoint lies in a run's folder of them");
    let newest = ["config.json", "a run, whose newest checkpoint is", "step-"];
    alone(&format!("generate --prompt A --model {}", run.display())).run().with_code(2).sentence(&newest);
}

fn streams(mut job: Job) {
    let mut child = job.0.spawn().unwrap();
    let (mut out, mut pieces, mut buffer) = (child.stdout.take().unwrap(), 0, [0; 64]);
    while pieces < 20 && out.read(&mut buffer).unwrap() > 0 {
        pieces += 1;
    }
    assert!(child.try_wait().unwrap().is_none(), "it had ended before 20 pieces were read");
    child.kill().unwrap();
    child.wait().unwrap();
}
