//! What is missing or too small is one sentence, not a panic.
use crate::program::alone;
use crate::scene::{Precision, Run, stubs, tiny};
use std::os::unix::fs::symlink;

/// A folder with some of the libraries.
fn some(names: &[&str]) -> Option<tempfile::TempDir> {
    let (stubs, compiler) = stubs()?;
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let from = [stubs, compiler].into_iter().map(|dir| dir.join(name)).find(|file| file.exists());
        symlink(from.unwrap_or_else(|| panic!("{name} was not built")), folder.path().join(name)).unwrap();
    }
    Some(folder)
}

#[test]
fn a_missing_library_is_named() {
    let empty = tempfile::tempdir().unwrap();
    for (there, missing) in
        [(&[][..], "libcuda.so.1"), (&["libcuda.so.1"], "libnvrtc.so"), (&["libcuda.so.1", "libnvrtc.so.13"], "libcublasLt.so")]
    {
        let (Some(folder), Some(run)) = (some(there), Run::cuda(tiny())) else { return };
        // With a cache that holds nothing the compiler is needed.
        let run = run.libraries(folder.path()).with("XDG_CACHE_HOME", empty.path().to_str().unwrap());
        let builtins = stubs().unwrap().1.clone();
        let run = if there.len() == 2 { run.with("LD_LIBRARY_PATH", &both(folder.path(), &builtins)) } else { run };
        run.job().run().with_code(2).sentence(&[missing, "LD_LIBRARY_PATH"]);
    }
}

fn both(a: &std::path::Path, b: &std::path::Path) -> String {
    format!("{}:{}", a.display(), b.display())
}

#[test]
fn nccl_is_named_where_it_is_asked_for_and_done_without_where_not() {
    let Some(folder) = some(&["libcuda.so.1", "libcublasLt.so.13"]) else { return };
    let path = both(folder.path(), &stubs().unwrap().1);
    let run = |comm: &str| Run::cuda(tiny()).unwrap().and(&format!("--comm {comm}")).ranks(2).with("LD_LIBRARY_PATH", &path);
    run("nccl").job().run().with_code(2).sentence(&["libnccl.so.2"]);
    let ended = run("auto").job().done();
    assert!(ended.err.contains("hosts' memory") && ended.err.contains("libnccl.so.2"), "{ended}");
}

#[test]
fn a_gpu_that_is_not_there_or_too_old_is_said() {
    for (name, value, parts) in [
        ("STUB_DEVICES", "0", &["sees no GPU"][..]),
        ("STUB_DRIVER", "11080", &["CUDA 12.0 or later", "11.8"]),
        ("STUB_CAPABILITY", "75", &["capability 8.0 or later", "7.5"]),
    ] {
        let Some(run) = Run::cuda(tiny()) else { return };
        run.with(name, value).job().run().with_code(2).sentence(parts);
        // Where nobody insists, the CPU does it.
        let auto = Run::cuda(tiny()).unwrap().and("--device auto").with(name, value);
        assert_eq!(auto.steps().len(), 3);
    }
}

/// What only GPUs can do is refused where there is none, asked for or not.
#[test]
fn what_the_cpu_cannot_do_is_refused() {
    for (options, parts) in [
        ("--precision tf32", &["--precision", "expected fp32, bf16 or bf16-true on the CPU", "found tf32"][..]),
        ("--reduce bf16", &["--reduce", "expected f32 on the CPU", "found bf16"]),
        ("--nondeterministic", &["--nondeterministic", "expected a GPU", "found the CPU"]),
        (
            "--precision bf16 --stochastic-rounding",
            &["--stochastic-rounding", "expected --precision bf16-true, or a GPU", "found the CPU"],
        ),
    ] {
        Run::cpu(&format!("--device cpu {}", tiny())).job_with(options).run().with_code(2).sentence(parts);
        let Some(run) = Run::cuda(tiny()) else { return };
        run.and("--device auto").with("STUB_DEVICES", "0").job_with(options).run().with_code(2).sentence(parts);
    }
    let Some(run) = Run::cuda(tiny()) else { return };
    let parts = ["--stochastic-rounding", "expected --precision bf16", "found fp32"];
    run.job_with("--stochastic-rounding").run().with_code(2).sentence(&parts);
}

#[test]
fn too_little_memory_is_said_before_any_is_taken() {
    let Some(run) = Run::cuda(&format!("{} --micro-batch 4", tiny())) else { return };
    let ended = run.with("STUB_MEMORY", "34500000").job().run().with_code(2);
    let said = ended.sentence(&["free memory", "--micro-batch 1 would fit"]);
    assert!(said.contains("H100") && ended.err.contains("activations"), "{ended}");
    let Some(run) = Run::cuda(tiny()) else { return };
    run.with("STUB_MEMORY", "1000000").job().run().with_code(2).sentence(&["not even --micro-batch 1"]);
}

/// A plan without a GPU counts what a run on one takes, also for the largest micro-batch that fits.
#[test]
fn plan_and_run_agree_on_the_largest_that_fits() {
    const MEMORY: f64 = 40e6;
    let options = "--model nano --layers 2 --width 32 --heads 2 --vocab 200 --seq-len 16 --synthetic-data --zero 1 --steps 1 --attention own";
    let table = |out: &str| {
        let rows = out.split_once("memory per rank").expect("a memory table").1.lines().skip(1);
        let row = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        rows.map(row).take_while(|row| !row.is_empty()).collect::<Vec<_>>()
    };
    for precision in [Precision::Fp32, Precision::Bf16] {
        let Some(run) = Run::cuda(&format!("{options} --micro-batch max")) else { return };
        let ran = run.precision(precision).ranks(2).with("STUB_MEMORY", &MEMORY.to_string()).job().done();
        let found = ran.after("micro-batch ").split_once(": the largest that fits 34.3 MiB a rank").expect("its words").0;
        assert!(found.parse::<usize>().unwrap() > 8, "{ran}");
        let plan = |more: &str| {
            let name = precision.name();
            alone(&format!("plan {options} --precision {name} --device cuda --ranks 2 {more}")).done()
        };
        assert_eq!(table(&plan(&format!("--micro-batch {found}")).out), table(&ran.out));
        let gib = MEMORY / f64::from(1 << 30);
        let planned = plan(&format!("--micro-batch max --gpu-memory {gib}"));
        assert_eq!(planned.after("micro-batch ").split(':').next(), Some(found), "{planned}");
    }
}

#[test]
fn a_damaged_entry_of_the_cache_is_made_again() {
    let Some(run) = Run::cuda(tiny()) else { return };
    let cache = tempfile::tempdir().unwrap();
    let run = run.with("XDG_CACHE_HOME", cache.path().to_str().unwrap());
    let whole = run.steps();
    let entries = std::fs::read_dir(cache.path().join("llm-train")).unwrap().map(|e| e.unwrap().path());
    let kept: Vec<_> = entries.filter(|f| f.extension().is_some_and(|e| e == "cubin")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let bytes = std::fs::read(&kept[0]).unwrap();
    std::fs::write(&kept[0], &bytes[..bytes.len() / 2]).unwrap();
    let ended = run.job().done();
    assert!(ended.err.contains("is not whole"), "{ended}");
    assert_eq!(std::fs::read(&kept[0]).unwrap(), bytes);
    assert_eq!(run.left().len(), whole.len());
}

#[test]
fn who_computes_attention_is_said() {
    let model = "--model nano --layers 1 --width 128 --heads 2 --hidden 64 --vocab 200 --seq-len 16 --micro-batch 1 \
                 --global-batch 1 --synthetic-data --steps 1";
    if stubs().is_none() {
        return;
    }
    let run = |precision, options: &str| Run::cuda(&format!("{model} {options}")).unwrap().precision(precision).job();
    // No cuDNN lies in the library path.
    run(Precision::Bf16, "--attention cudnn").run().with_code(2).sentence(&["libcudnn.so.9", "LD_LIBRARY_PATH"]);
    let said = |precision, options: &str| run(precision, options).done().after("attention by ").to_string();
    assert!(said(Precision::Bf16, "").starts_with("our own kernels: libcudnn.so.9, of cuDNN, was not found"));
    assert_eq!(said(Precision::Bf16, "--attention own"), "our own kernels");
    // Where cuDNN does not serve, it is not asked, unless it must.
    assert_eq!(said(Precision::Fp32, ""), "our own kernels");
    run(Precision::Fp32, "--attention cudnn").run().with_code(2).sentence(&["--attention", "expected bf16", "found fp32"]);
    run(Precision::Bf16, "--attention cudnn --heads 4").run().with_code(2).sentence(&["64 or 128", "heads of 32"]);
    run(Precision::Bf16, "--attention cudnn --reset-attention").run().with_code(2).sentence(&["kept apart"]);
}
