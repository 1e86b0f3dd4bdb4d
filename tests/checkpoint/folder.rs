//! A save that is cut off, a checkpoint that is damaged, old ones that go, a rank that fails.
use crate::toy::*;
use llm_train::checkpoint::*;
use llm_train::error::Error;
use std::fs;
use std::path::PathBuf;

#[test]
fn a_save_that_was_cut_off_is_never_read_and_is_swept_away() {
    let out = tempfile::tempdir().unwrap();
    assert_eq!(newest(out.path()).unwrap(), None);
    let first = saved(out.path(), 10);
    let left = out.path().join("checkpoints/step-00000020.partial");
    fs::create_dir(&left).unwrap();
    fs::copy(first.join("model.safetensors"), left.join("model.safetensors")).unwrap();
    assert_eq!(newest(out.path()).unwrap(), Some(first.clone()));
    // Killed between list and rename: even with the list it does not bear the name.
    fs::copy(first.join("complete"), left.join("complete")).unwrap();
    assert_eq!(newest(out.path()).unwrap(), Some(first));
    let next = saved(out.path(), 15);
    assert_eq!(listing(&out.path().join("checkpoints")), ["latest", "step-00000010", "step-00000015"]);
    assert_eq!(newest(out.path()).unwrap(), Some(next));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_named() {
    let out = tempfile::tempdir().unwrap();
    let (first, second) = (saved(out.path(), 1), saved(out.path(), 2));
    let file = second.join("optimizer-00001-of-00001.safetensors");
    let length = fs::metadata(&file).unwrap().len();
    fs::File::options().write(true).open(&file).unwrap().set_len(length - 1).unwrap();
    assert_eq!(newest(out.path()).unwrap(), Some(first.clone()));
    let said = sentence(check_complete(&second));
    assert_eq!(said, format!("{}: expected {length} bytes, found {}", file.display(), length - 1));
    fs::remove_file(first.join("complete")).unwrap();
    assert_eq!(newest(out.path()).unwrap(), None);
}

#[test]
fn old_ones_go_only_as_asked() {
    let out = tempfile::tempdir().unwrap();
    let keep = Keep { newest: 2, every: Some(30) };
    for step in [10, 20, 30, 40, 50, 60, 70] {
        save_on(out.path(), step, 2, true, &How { keep, ..PLAIN }).remove(0).unwrap();
        let root = out.path().join("checkpoints");
        assert_eq!(fs::read_link(root.join("latest")).unwrap(), PathBuf::from(format!("step-{step:08}")));
    }
    let names = ["latest", "step-00000030", "step-00000060", "step-00000070"];
    assert_eq!(listing(&out.path().join("checkpoints")), names);
    // A run that went back writes a step again, and one below those that are there: what was just written stays.
    save_on(out.path(), 60, 1, false, &How { keep, ..PLAIN }).remove(0).unwrap();
    let back = save_on(out.path(), 45, 1, false, &How { keep: Keep { newest: 1, every: None }, ..PLAIN }).remove(0).unwrap();
    assert_eq!(listing(&out.path().join("checkpoints")), ["latest", "step-00000045", "step-00000070"]);
    check_complete(&back).unwrap();
}

#[test]
fn one_ranks_failure_is_everyones() {
    let out = tempfile::tempdir().unwrap();
    let first = saved(out.path(), 1);
    let nowhere = out.path().join("nowhere.json");
    for result in save_on(out.path(), 2, 3, true, &How { tokenizer: Some(&nowhere), ..PLAIN }) {
        let Err(Error::Failed(said)) = result else { panic!("{result:?}") };
        assert!(said.contains("nowhere.json: expected the tokenizer to copy"), "{said}");
        assert!(said.contains("step 2") && said.contains("earlier checkpoints are whole"), "{said}");
    }
    assert_eq!(listing(&out.path().join("checkpoints")), ["latest", "step-00000001"]);
    assert_eq!(newest(out.path()).unwrap(), Some(first));
}

/// A rank that writes to a disk of its own: its files are missing where rank 0 looks.
#[test]
fn a_folder_that_is_not_shared_is_noticed() {
    let (out, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let private = elsewhere.path().to_owned();
    fs::create_dir_all(private.join("checkpoints/step-00000003.partial")).unwrap();
    let results = save_on(out.path(), 3, 2, true, &How { others: Some(elsewhere.path()), ..PLAIN });
    let said = sentence(results[1].clone());
    assert!(said.contains("optimizer-00002-of-00002.safetensors: expected a file that a rank has written"), "{said}");
    assert!(said.contains("do all ranks share --out?"), "{said}");
}
