//! A disk that fills up while a checkpoint is written.
use crate::toy::*;
use llm_train::checkpoint::*;
use llm_train::error::Error;
use std::fs;
use std::path::Path;

/// Fills a small file system, in a child that has one of its own; where the system gives none, a limit on the length of
/// files stands in.
#[test]
fn a_full_disk_leaves_the_previous_checkpoint_whole() {
    const MARK: &str = "LLM_TRAIN_TEST_SMALL_DISK";
    if let Ok(out) = std::env::var(MARK) {
        let out = Path::new(&out);
        let first = newest(out).unwrap().unwrap_or_else(|| saved(out, 1));
        let filler = fs::write(out.join("filler"), vec![1; 24_000]);
        for step in [2, 3] {
            // The second time with the folder of the first swept away or not: nothing may pile up.
            let Err(Error::Failed(said)) = save_on(out, step, 2, true, &PLAIN).remove(0) else { panic!("it fitted") };
            println!("{said} (filler: {filler:?})");
            assert!(said.contains(" bytes written, then: "), "{said}");
            assert_eq!(newest(out).unwrap(), Some(first.clone()));
            assert_eq!(listing(&out.join("checkpoints")), ["latest", "step-00000001"]);
        }
        let toy = Toy::new(0, 1, false);
        load_weights(&first, &toy.dev, &toy.parameters).unwrap();
        load_optimizer(&first, &toy.dev, &toy.parameters, &toy.moments).unwrap();
        return toy.assert_filled("after the disk was full");
    }
    let out = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let child = |shell: &[&str], script: &str| {
        let test = "full_disk::a_full_disk_leaves_the_previous_checkpoint_whole";
        let mut command = std::process::Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script, "sh"]).arg(&me).args(["--exact", test, "--nocapture"]);
        command.env(MARK, out.path()).output()
    };
    let tmpfs = "mount -t tmpfs -o size=80k none \"$LLM_TRAIN_TEST_SMALL_DISK\" || exit 77; exec \"$@\"";
    let own = child(&["unshare", "-rm", "sh"], tmpfs);
    let run = match own {
        Ok(run) if run.status.code() != Some(77) && !String::from_utf8_lossy(&run.stderr).contains("unshare") => run,
        // 2 or 4 KiB by the shell's blocks: too little for the first checkpoint, which is therefore made here.
        _ => {
            saved(out.path(), 1);
            child(&["sh"], "trap '' XFSZ; ulimit -f 4; exec \"$@\"").unwrap()
        }
    };
    let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}
