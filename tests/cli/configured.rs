//! Defaults, the file, `--set`, options: who overrides whom; and the printed configuration is a configuration.
use crate::program::{alone, ranks};
use crate::scene::{Left, Scene};

/// The TOML that a run prints at its start.
fn printed(out: &str) -> String {
    let from = out.split_once("# configuration\n").expect("a configuration is printed").1;
    let is_toml = |line: &&str| line.is_empty() || line.starts_with(['[', '#']) || line.contains(" = ");
    from.lines().take_while(is_toml).map(|line| format!("{line}\n")).collect()
}

fn stored(left: &Left, step: u64) -> String {
    left.json(&format!("checkpoints/step-{step:08}/progress.json"))["config"].as_str().unwrap().to_string()
}

#[test]
fn the_printed_configuration_gives_the_same_run() {
    let scene = Scene::new();
    // Something of everything: derived values, lists, switches, numbers that are hard to print.
    let odd = "--lr 0.0007000000000000001 --min-lr 1e-5 --schedule wsd --beta2 0.9 --clip 0.5 --no-decay-embeddings --zero 1 \
               --reset-attention --val-data";
    let text = scene.corpus("eos.bin", (0..4001).map(|i| if i % 50 == 49 { 2 } else { crate::scene::token(i) }));
    let model = scene.model("eos.json", serde_json::json!({ "eos_token_id": 2 }));
    let options =
        |out: &str| format!("{} --model {model} --data {text}:2 {} {odd} {text}", scene.options(out), scene.path("corpus.bin"));
    let refused = alone(&options("no")).run().with_code(2);
    refused.sentence(&["data.train", "weight"]);

    let options = options("first").replace(":2", "");
    let first = ranks(2, &options).done();
    let file = scene.write("again.toml", printed(&first.out));
    // The folder is the one thing that must differ.
    let second = ranks(2, &format!("--config {file} --out {}", scene.path("second"))).done();
    let (a, b) = (scene.run("first"), scene.run("second"));
    assert_eq!(a.losses(), b.losses());
    assert!(a.weights(4) == b.weights(4));
    let elsewhere = |text: &str| text.replace(&scene.path("second"), &scene.path("first"));
    let values = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(values(&printed(&first.out)), values(&elsewhere(&printed(&second.out))));
    // The checkpoint and metrics.h5 hold the same.
    assert_eq!(values(&stored(&a, 4)), values(&printed(&first.out)));
    assert_eq!(values(&a.history().starts[0].configuration), values(&printed(&first.out)));
    assert_eq!(stored(&a, 4), elsewhere(&stored(&b, 4)));
}

#[test]
fn the_stronger_word_counts() {
    let scene = Scene::new();
    let file = scene.write("run.toml", "[optim]\nlr = 1e-3\nbeta1 = 0.8\nbeta2 = 0.8\n[train]\nsteps = 3\n");
    let options = format!(
        "--config {file} --model {} --synthetic-data --seq-len 32 --micro-batch 1 --threads 1 --out {} \
         --set optim.beta1=0.7 --set optim.beta2=0.7 --beta2 0.6",
        scene.path("model.json"),
        scene.path("run")
    );
    let ended = alone(&options).done();
    let values: toml::Table = printed(&ended.out).parse().unwrap();
    let optim = |key: &str| values["optim"][key].as_float();
    assert_eq!(optim("lr"), Some(1e-3), "the file beats the default");
    assert_eq!(optim("beta1"), Some(0.7), "--set beats the file");
    assert_eq!(optim("beta2"), Some(0.6), "options beat --set");
    assert_eq!(optim("eps"), Some(1e-8), "a default");
    assert_eq!(scene.run("run").steps(), [1, 2, 3]);
    // The start says who gave a value.
    let line = |key: &str| printed(&ended.out).lines().find(|l| l.starts_with(key)).unwrap().to_string();
    assert!(line("lr =").contains("run.toml") && line("beta1 =").contains("--set") && line("beta2 =").contains("--beta2"));
}
