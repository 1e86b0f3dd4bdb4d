//! A folder with a tiny model and a corpus, and where a run leaves its things.
use llm_train::checkpoint;
use llm_train::metrics::History;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Tokens that the tiny model knows.
pub const VOCAB: u32 = 320;
/// Tokens of a sequence.
pub const SEQ: u64 = 32;

/// Removed when dropped.
pub struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// `model.json` (llama, two blocks, head not tied) and `corpus.bin` (nanoGPT, 20,001 tokens).
    pub fn new() -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        scene.model("model.json", json!({}));
        scene.corpus("corpus.bin", (0..20_001).map(token));
        scene
    }

    /// The whole path of something in the folder.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes a `config.json` that differs from the usual one by `changes`.
    pub fn model(&self, name: &str, changes: Value) -> String {
        let mut config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": false, "initializer_range": 0.02, "torch_dtype": "float32",
        });
        changes.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        self.write(name, config.to_string())
    }

    /// Writes tokens as nanoGPT does: u16, no header.
    pub fn corpus(&self, name: &str, tokens: impl IntoIterator<Item = u32>) -> String {
        self.write(name, tokens.into_iter().flat_map(|t| (t as u16).to_le_bytes()).collect::<Vec<u8>>())
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.dir.path().join(name), bytes).unwrap();
        self.path(name)
    }

    /// The options of a tiny run into the folder `out`; what is given after them counts.
    pub fn options(&self, out: &str) -> String {
        format!(
            "--model {} --set data.train={} --out {} --seq-len {SEQ} --micro-batch 1 --global-batch 4 --lr 1e-3 --min-lr 1e-3 \
             --schedule constant --warmup-steps 0 --threads 1 --seed 7 --steps 4 ",
            self.path("model.json"),
            self.path("corpus.bin"),
            self.path(out)
        )
    }

    pub fn run(&self, out: &str) -> Left {
        Left(self.dir.path().join(out))
    }
}

/// Far from uniform, so that there is something to learn, and without a period.
pub fn token(i: u32) -> u32 {
    let mixed = i.wrapping_mul(0x9e37_79b1) ^ (i / 7).wrapping_mul(0x85eb_ca6b);
    (mixed >> 24) * (mixed >> 16 & 0xff) * VOCAB / 65_536
}

/// The folder that a run wrote to.
pub struct Left(pub PathBuf);

impl Left {
    pub fn history(&self) -> History {
        History::read(&self.0.join("metrics.h5")).unwrap()
    }

    pub fn steps(&self) -> Vec<u64> {
        self.history().steps.iter().map(|s| s.step).collect()
    }

    /// Every step must stand there once.
    pub fn losses(&self) -> Vec<f64> {
        let history = self.history();
        assert!(history.steps.iter().zip(1..).all(|(s, n)| s.step == n), "{:?}", self.steps());
        history.steps.iter().map(|s| s.loss).collect()
    }

    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.0.join(format!("checkpoints/step-{step:08}"))
    }

    /// The steps of all complete checkpoints, ascending. None may be damaged or unfinished.
    pub fn checkpoints(&self) -> Vec<u64> {
        let mut steps = vec![];
        for name in names(&self.0.join("checkpoints")).iter().filter(|name| *name != "latest") {
            let dir = self.0.join("checkpoints").join(name);
            checkpoint::check_complete(&dir).unwrap_or_else(|e| panic!("{e}"));
            steps.push(name.strip_prefix("step-").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name}")));
        }
        steps
    }

    pub fn weights(&self, step: u64) -> Vec<u8> {
        fs::read(self.checkpoint(step).join("model.safetensors")).unwrap()
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.join(name)).unwrap()).unwrap()
    }

    /// Copies it, as one goes on from one state in several ways.
    pub fn copy_to(&self, other: &Left) {
        let copied = std::process::Command::new("cp").arg("-a").args([&self.0, &other.0]).status();
        assert!(copied.unwrap().success());
    }

    /// Every file with its bytes, to see that nothing has changed.
    pub fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = vec![];
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for name in names(&folder) {
                let path = folder.join(name);
                match path.symlink_metadata().unwrap().is_dir() {
                    true => folders.push(path),
                    false => found.push((path.clone(), fs::read(path).unwrap_or_default())),
                }
            }
        }
        found.sort();
        found
    }
}

/// What lies in a folder, by name; nothing where there is none.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
