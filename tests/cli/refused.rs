//! What cannot be used is said in one sentence by one rank, the others are gone too, and nothing has been written.
use crate::program::{Job, PROGRAM, alone, mpirun, ranks};
use crate::scene::{SEQ, Scene, VOCAB, names, token};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::fs;

type Tensors<'a> = Vec<(String, TensorView<'a>)>;

/// A mistake, and what the sentence about it must hold.
struct Mistake {
    options: String,
    parts: Vec<String>,
}

fn mistake(options: impl Into<String>, parts: &[&str]) -> Mistake {
    Mistake { options: options.into(), parts: parts.iter().map(|part| part.to_string()).collect() }
}

/// Each mistake alone and on two ranks, several at a time: most of it is waiting for MPI.
fn all_refused(scene: &Scene, mistakes: Vec<Mistake>) {
    let base = scene.options("refused");
    let one = |m: &Mistake| {
        let parts: Vec<&str> = m.parts.iter().map(String::as_str).collect();
        let said = refused(scene, alone(&format!("{base} {}", m.options)), &parts);
        assert!(said.len() < 400, "{said}");
        refused(scene, ranks(2, &format!("{base} {}", m.options)), &parts);
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(m) = mistakes.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            one(m);
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
}

fn refused(scene: &Scene, job: Job, parts: &[&str]) -> String {
    let ended = job.run().with_code(2);
    let said = ended.sentence(parts).to_string();
    assert_eq!(names(&scene.run("refused").0), [""; 0], "written before the refusal: {said}");
    said
}

#[test]
fn settings() {
    let scene = Scene::new();
    let slip = scene.write("slip.toml", "[optim]\nlrr = 1e-3\n");
    let text = scene.write("text.toml", "[optim]\nlr = \"fast\"\n");
    let torn = scene.write("torn.toml", "[optim\nlr = 1\n");
    let heads = scene.model("heads.json", json!({ "num_attention_heads": 5, "num_key_value_heads": 5 }));
    let other = scene.model("other.json", json!({ "model_type": "mamba" }));
    let window = scene.model("window.json", json!({ "model_type": "mistral", "sliding_window": 16 }));
    let in_the_way = scene.write("file", "a file");
    all_refused(
        &scene,
        vec![
            mistake(format!("--config {slip}"), &["slip.toml", "optim.lrr", "optim.lr"]),
            mistake("--set optim.lrr=1", &["optim.lrr", "optim.lr"]),
            mistake(format!("--config {text}"), &["text.toml", "optim.lr", "expected a number", "\"fast\""]),
            mistake(format!("--config {torn}"), &["torn.toml"]),
            mistake(format!("--config {}", scene.path("none.toml")), &["none.toml"]),
            mistake("--lr fast", &["optim.lr", "expected a number", "\"fast\""]),
            mistake("--lrr 1", &["--lrr", "--lr"]),
            mistake("--global-batch 0", &["batch.global_batch", "from 1", "\"0\""]),
            mistake(format!("--model {heads}"), &["heads.json", "32", "5"]),
            mistake(format!("--model {other}"), &["other.json", "model_type", "mamba"]),
            mistake(format!("--model {window}"), &["window.json", "sliding_window", "16"]),
            mistake("--model nanno", &["model.name", "nanno", "nano"]),
            mistake("--seq-len 65", &["batch.seq_len", "64", "65"]),
            mistake("--init pretrained", &["model.safetensors"]),
            mistake(format!("--out {in_the_way}"), &["--out", "file", "not a folder"]),
            mistake(format!("--out {in_the_way}/run"), &["--out", "file", "not a folder"]),
            mistake(format!("--json {in_the_way}/result.json"), &["--json", "file", "not a folder"]),
            mistake("--tokenizer none.json", &["data.tokenizer", "none.json"]),
            mistake("--resume nowhere", &["nowhere/complete"]),
        ],
    );
}

/// Memory and GPUs that are not there, known before any work is spent.
#[test]
fn what_this_machine_has_not() {
    let scene = Scene::new();
    let wide = scene.model("wide.json", json!({ "hidden_size": 1 << 20, "intermediate_size": 1 << 20 }));
    all_refused(
        &scene,
        vec![
            mistake(
                format!("--model {wide}"),
                &["TiB of free memory for each rank, found", "--micro-batch 1", "--recompute block"],
            ),
            mistake("--device cuda", &["system.device", "expected a GPU that can be used", "libcuda.so.1"]),
        ],
    );
    // what is measured before the run is opened, too
    let roofline = alone("bench step --model nano --device cuda --roofline --steps 2").run().with_code(2);
    roofline.sentence(&["--device", "expected a GPU that can be used", "libcuda.so.1"]);
}

#[test]
fn corpora() {
    let scene = Scene::new();
    let short = scene.corpus("short.bin", (0..SEQ as u32).map(token));
    let empty = scene.write("empty.bin", "");
    let prose = scene.write("prose.txt", "In the beginning God created the heaven and the earth. ".repeat(20));
    // Two windows, both in the first batch: the bad token is the 41st, at byte 80.
    let beyond = scene.corpus("beyond.bin", (0..2 * SEQ as u32 + 1).map(|i| if i == 40 { VOCAB } else { token(i) }));
    let deep = scene.corpus("deep.bin", (0..60_000).map(|i| if i == 51_234 { VOCAB + 7 } else { token(i) }));
    // Megatron: two sequences of 100 tokens.
    let tokens: Vec<u8> = (0..200).flat_map(|i| (token(i) as u16).to_le_bytes()).collect();
    let index = |lengths: [u32; 2], pointers: [u64; 2]| {
        let mut bytes = b"MMIDIDX\0\0".to_vec();
        bytes.extend(1u64.to_le_bytes());
        bytes.push(8);
        [2u64, 3].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        lengths.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        pointers.iter().chain(&[0, 1, 2]).for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes
    };
    for (name, bytes, index) in [
        ("whole", &tokens[..], index([100, 100], [0, 200])),
        ("torn", &tokens[..390], index([100, 100], [0, 200])),
        ("sums", &tokens[..], index([100, 100], [0, 198])),
        ("more", &tokens[..], index([100, 120], [0, 200])),
    ] {
        scene.write(&format!("{name}.bin"), bytes);
        scene.write(&format!("{name}.idx"), index);
    }
    let path = |name: &str| scene.path(name);
    // That these are refused for their faults and not for all else:
    alone(&format!("{} --data {} --steps 1", scene.options("whole"), path("whole"))).done();
    let found_at = |i: u64| format!("at byte {}", 2 * i);
    all_refused(
        &scene,
        vec![
            mistake(format!("--data {}", path("nowhere")), &["nowhere", "none"]),
            mistake(format!("--data {short}"), &["short.bin", "33", "32"]),
            mistake(format!("--data {empty}"), &["empty.bin", "empty"]),
            mistake(format!("--data {prose}"), &["prose.txt", "text", "tokenize"]),
            mistake(format!("--data {}", path("torn")), &["torn.bin", "400", "390"]),
            mistake(format!("--data {}", path("sums")), &["sums.idx", "200", "198"]),
            mistake(format!("--data {}", path("more")), &["more.bin", "440", "400"]),
            mistake(format!("--data {beyond} --global-batch 2"), &["beyond.bin", "320", &found_at(40)]),
            mistake(format!("--data {deep} --check-data"), &["deep.bin", "327", &found_at(51_234)]),
            mistake(format!("--data {}:-1", path("corpus.bin")), &["data.train", "-1"]),
            mistake(format!("--val-data {}", path("nowhere")), &["nowhere", "none"]),
            mistake(format!("--val-data {beyond}"), &["beyond.bin", "320", &found_at(40)]),
        ],
    );
}

#[test]
fn a_token_that_is_met_on_the_way_ends_the_run_with_the_last_checkpoint_whole() {
    let scene = Scene::new();
    let deep = scene.corpus("deep.bin", (0..60_000).map(|i| if i == 51_234 { VOCAB + 7 } else { token(i) }));
    let options = format!("{} --data {deep} --epochs 1 --save-every 5 --keep 3", scene.options("deep").replace("--steps 4", ""));
    let ended = ranks(2, &options).run().with_code(1);
    // The other rank is sent away by mpirun, and may say so.
    let said = ended.err.lines().find(|line| line.contains("deep.bin")).unwrap_or_else(|| panic!("{ended}"));
    assert!(["rank ", ", step ", "327", "at byte 102468"].iter().all(|part| said.contains(part)), "{ended}");
    let left = scene.run("deep");
    let (saved, last) = (left.checkpoints(), *left.steps().last().unwrap());
    assert!(saved.last().is_some_and(|step| *step > 5 && *step <= last && *step + 5 >= last), "{saved:?} of {last}: {said}");
}

#[test]
fn weights() {
    let scene = Scene::new();
    alone(&format!("{} --steps 1", scene.options("first"))).done();
    let weights = scene.run("first").weights(1);
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    let norm = "model.layers.1.input_layernorm.weight";
    let altered = |folder: &str, put: &dyn Fn(&mut Tensors)| {
        let mut all = tensors.tensors();
        put(&mut all);
        fs::create_dir(scene.path(folder)).unwrap();
        fs::copy(scene.path("model.json"), scene.path(&format!("{folder}/config.json"))).unwrap();
        scene.write(&format!("{folder}/model.safetensors"), safetensors::serialize(all, None).unwrap())
    };
    altered("whole", &|_| ());
    altered("missing", &|all| all.retain(|(name, _)| name != norm));
    let narrow = || TensorView::new(Dtype::F32, vec![31], &[0; 4 * 31]).unwrap();
    altered("shape", &|all| all.iter_mut().filter(|(name, _)| name == norm).for_each(|(_, view)| *view = narrow()));
    let torn = altered("torn", &|_| ());
    fs::write(torn, &weights[..weights.len() - 10]).unwrap();
    let model = |folder: &str| format!("--model {} --init pretrained", scene.path(folder));
    alone(&format!("{} {}", scene.options("goes"), model("whole"))).done();
    all_refused(
        &scene,
        vec![
            mistake(model("missing"), &["missing/model.safetensors", norm, "[32]", "none"]),
            mistake(model("shape"), &["shape/model.safetensors", norm, "[32]", "[31]"]),
            mistake(model("torn"), &["torn/model.safetensors"]),
        ],
    );
}

#[test]
fn a_checkpoint_of_another_model_or_seed_is_left_alone() {
    let scene = Scene::new();
    let base = scene.options("first");
    alone(&base).done();
    let before = scene.run("first").contents();
    let wide = scene.model("wide.json", json!({ "hidden_size": 64 }));
    for (options, parts) in [
        (format!("--model {wide} --steps 8"), &["config.json", "hidden_size", "64", "32"][..]),
        ("--model nano --vocab 320 --steps 8".into(), &["config.json", "model_type", "llama", "gpt2"]),
        ("--seed 8 --steps 8".into(), &["train.seed", "7", "8"]),
    ] {
        ranks(2, &format!("{base} {options}")).run().with_code(2).sentence(parts);
        assert!(scene.run("first").contents() == before, "{options} changed the files of the run");
    }
}

#[test]
fn a_batch_smaller_than_the_ranks() {
    let scene = Scene::new();
    refused(&scene, ranks(3, &format!("{} --global-batch 2", scene.options("refused"))), &["batch.global_batch", "3 ranks", "2"]);
}

#[test]
fn ranks_that_differ() {
    let scene = Scene::new();
    let base = scene.options("refused");
    let two = |first: &str, second: &str| mpirun(&format!("--bind-to none -n 1 {PROGRAM} {first} : -n 1 {PROGRAM} {second}"));
    refused(&scene, two(&base, &format!("{base} --beta2 0.9")), &["configuration", "rank 1", "0.9", "0.95"]);
    // Only one of them has made the mistake; the other learns of it.
    refused(&scene, two(&base, &format!("{base} --lr fast")), &["rank 1", "optim.lr"]);
    refused(&scene, two(&format!("{base} --no-such-option"), &base), &["--no-such-option"]);
    // The same name, another file.
    for folder in ["one", "two"] {
        fs::create_dir(scene.path(folder)).unwrap();
    }
    scene.corpus("one/text.bin", (0..1000).map(token));
    scene.corpus("two/text.bin", (0..1000).map(|i| token(i + 1)));
    let (one, two, base) = (scene.path("one"), scene.path("two"), format!("{base} --data text.bin"));
    let job = mpirun(&format!("--bind-to none -n 1 -wdir {one} {PROGRAM} {base} : -n 1 -wdir {two} {PROGRAM} {base}"));
    refused(&scene, job, &["corpus", "rank 1"]);
}
