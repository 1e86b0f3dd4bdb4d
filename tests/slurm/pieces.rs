//! `jobs/generic/job.sbatch` as it ships, in pieces.
use crate::cluster::{self, Cluster, ROOT};
use crate::program::ranks;
use crate::scene::Scene;
use std::path::{Path, PathBuf};

/// The shipped script beside a run.toml of the tiny model.
fn folder(scene: &Scene, name: &str, steps: u64) -> PathBuf {
    let folder = PathBuf::from(scene.path(name));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(Path::new(ROOT).join("jobs/generic/job.sbatch"), folder.join("job.sbatch")).unwrap();
    write(scene, &folder, steps);
    folder
}

fn write(scene: &Scene, folder: &Path, steps: u64) {
    let text = format!(
        "model = {{ name = \"{}\" }}\ndata = {{ train = [\"{}\"] }}\nbatch = {{ seq_len = 32, micro_batch = 1, global_batch = 4 }}\n\
         train = {{ out = \"run\", steps = {steps}, seed = 7 }}\nsystem = {{ zero = 1, threads = 1 }}\nlog = {{ every = 100 }}\n\
         optim = {{ lr = 1e-3, min_lr = 1e-3, schedule = \"constant\", warmup_steps = 0 }}\n",
        scene.path("model.json"),
        scene.path("corpus.bin")
    );
    std::fs::write(folder.join("run.toml"), text).unwrap();
}

/// Four ranks on two nodes.
const SHAPE: [&str; 3] = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1"];

fn said(folder: &Path, job: &str) -> String {
    std::fs::read_to_string(folder.join(format!("llm-train-{job}.out"))).unwrap_or_default()
}

/// `steps` without interruption, by mpirun.
fn uninterrupted(scene: &Scene, steps: u64) -> Vec<f64> {
    let run = ranks(4, &format!("{} --zero 1 --steps {steps} --log-every 1000", scene.options("whole"))).start();
    run.end_within(std::time::Duration::from_secs(200)).with_code(0);
    scene.run("whole").losses()
}

fn requeued(cluster: &Cluster, scene: &Scene) {
    let folder = folder(scene, "job", 100_000_000);
    let job = cluster.submit(&folder, &[&SHAPE[..], &["--time=1", "--signal=USR1@20", "job.sbatch"]].concat());
    cluster.until("requeued", &|| said(&folder, &job).contains("requeued (restart 0)"));
    let left = scene.run("job/run");
    let at = left.steps().last().copied().unwrap();
    assert_eq!(left.checkpoints(), [at]);
    // The next piece is to come to an end.
    write(scene, &folder, at + 10);
    cluster.until_over(&job);
    let text = said(&folder, &job);
    assert!(text.contains("stopped early, as SIGUSR1 asked") && text.contains(&format!("going on after step {at}")), "{text}");
    assert!(!text.contains("cpu binding"), "the private Slurm has nothing to say about what it does not bind: {text}");
    assert!(text.contains(" n1 ") && text.contains(" n2 "), "four ranks on two nodes: {text}");
    assert_eq!(left.history().starts.len(), 2, "{text}");
    assert!(left.losses() == uninterrupted(scene, at + 10), "the losses differ: {text}");
}

#[test]
fn a_job_is_told_saves_is_requeued_and_goes_on_at_the_right_sample() {
    if let Some(cluster) = cluster::get() {
        requeued(cluster, &Scene::new());
    }
}

#[test]
fn an_array_is_a_chain_that_ends_when_the_run_is_done() {
    let Some(cluster) = cluster::get() else { return };
    let scene = Scene::new();
    let folder = folder(&scene, "job", 100_000_000);
    // The first element runs into the limit that it was given, the second finishes, the third never starts.
    let job = cluster.submit(&folder, &[&SHAPE[..], &["--array=1-3%1", "job.sbatch", "--max-time", "5"]].concat());
    let output = |part: &str| {
        let names = crate::scene::names(&folder);
        let texts = names.iter().filter(|n| n.ends_with(".out")).map(|n| std::fs::read_to_string(folder.join(n)).unwrap());
        texts.filter(|text| text.contains(part)).count()
    };
    cluster.until("the first element", &|| output("the next element of the array") > 0);
    let left = scene.run("job/run");
    let at = left.steps().last().copied().unwrap();
    write(&scene, &folder, at + 5);
    cluster.until_over(&job);
    assert_eq!(left.steps().last(), Some(&(at + 5)));
    assert_eq!(left.history().starts.len(), 2, "the third was not started");
}
