//! Started without a launcher, and with one that binds ranks as it likes.
use crate::program::{PROGRAM, alone, mpirun, ranks};
use crate::scene::Scene;

#[test]
fn no_launcher_is_a_world_of_one() {
    let scene = Scene::new();
    let options = |out: &str| scene.options(out);
    alone(&options("alone")).done();
    ranks(1, &options("launched")).done();
    assert_eq!(scene.run("alone").losses(), scene.run("launched").losses());
    assert!(scene.run("alone").weights(4) == scene.run("launched").weights(4));
}

#[test]
fn a_binding_that_wastes_cores_is_said_with_the_option_that_mends_it() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let scene = Scene::new();
    let options = scene.options("run").replace("--threads 1", "");
    // mpirun's own choice for one and two ranks is a core each.
    for n in [1, 2] {
        let ended = mpirun(&format!("-n {n} {PROGRAM} {options} --resume never")).done();
        let warned = ended.err.contains("--bind-to none") && ended.err.contains("--cpus-per-task");
        assert_eq!(warned, cores > n, "{cores} cores\n{ended}");
    }
    // More threads than cores.
    let ended = mpirun(&format!("-n 2 --bind-to none {PROGRAM} {options} --resume never --threads {cores}")).done();
    assert_eq!(ended.err.contains("share"), cores > 0, "{ended}");
    let warnings = ended.err.lines().filter(|l| l.contains("warn")).count();
    assert_eq!(warnings, 1, "one rank says it\n{ended}");
    // And with what it asks for, nothing is said.
    let ended = mpirun(&format!("-n 2 --bind-to none {PROGRAM} {options} --resume never --threads 1")).done();
    assert_eq!(ended.err, "", "{ended}");
}
