//! The modulefile, loaded by the tools that read it on clusters. They are there where `scripts/setup.sh` could install them.
use crate::{bash, done, installed, text};

/// A line of bash with Lmod's `module`; nothing where there is no Lmod, which in CI is a failure.
fn lmod(line: &str) -> Option<String> {
    let found = ["/usr/share/lmod/lmod/init/bash", "/opt/ohpc/admin/lmod/lmod/init/bash"].into_iter();
    let own = std::env::var("LMOD_PKG").ok().map(|folder| format!("{folder}/init/bash"));
    let init = own.into_iter().chain(found.map(String::from)).find(|file| std::path::Path::new(file).exists());
    let Some(init) = init else {
        assert!(std::env::var_os("CI").is_none(), "Lmod is not installed");
        eprintln!("NOT TESTED: Lmod is not installed here");
        return None;
    };
    // what a user's shell had loaded does not count
    Some(done(&format!(
        "unset MODULEPATH LOADEDMODULES _LMFILES_ MANPATH __LMOD_REF_COUNT_MODULEPATH; source {init} >/dev/null; set -e; {line}"
    )))
}

/// After the load the program is found, and says which it is; after the unload nothing is left of it.
const ROUND: &str = "module load llm-train; command -v llm-train; llm-train --version; echo root=$LLM_TRAIN_ROOT \
    version=$LLM_TRAIN_VERSION locking=$HDF5_USE_FILE_LOCKING; echo manpath=$MANPATH; module unload llm-train; \
    echo \"then ${LLM_TRAIN_ROOT:-nothing} $(command -v llm-train || echo nowhere)\"";

fn well(said: &str) {
    let prefix = installed().display();
    for part in [
        format!("{prefix}/bin/llm-train\nllm-train {} (git ", env!("CARGO_PKG_VERSION")),
        format!("root={prefix} version={} locking=FALSE", env!("CARGO_PKG_VERSION")),
        format!("{prefix}/share/man"),
        "then nothing nowhere".into(),
    ] {
        assert!(said.contains(&part), "{part:?} is not in\n{said}");
    }
}

#[test]
fn lmod_loads_the_lua_modulefile() {
    let path = format!("module use '{}/modulefiles'", installed().display());
    let Some(said) = lmod(&format!("{path}; {ROUND}")) else { return };
    well(&said);
    let about = lmod(&format!("{path}; module whatis llm-train 2>&1; module help llm-train 2>&1; module -t avail 2>&1")).unwrap();
    for part in
        ["Name: llm-train", "Keywords:", "srun llm-train --config run.toml", concat!("llm-train/", env!("CARGO_PKG_VERSION"))]
    {
        assert!(about.contains(part), "{part}\n{about}");
    }
    // the system's own pages are still found beside ours
    if bash("command -v man && man -w bash").status.success() {
        lmod(&format!("{path}; module load llm-train; man -w llm-train; man -w bash")).unwrap();
    }
}

/// The Tcl modulefile alone, in a folder of its own: beside the other Lmod would not look at it.
#[test]
fn lmod_loads_the_tcl_modulefile() {
    let folder = tcl(&[]);
    let Some(said) = lmod(&format!("module use '{}'; {ROUND}", folder.path().display())) else { return };
    well(&said);
}

#[test]
fn what_a_module_needs_is_loaded_with_it() {
    let folder = tcl(&["openmpi/4.1", "hdf5"]);
    for name in ["openmpi/4.1", "hdf5/1.14"] {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "#%Module1.0\n").unwrap();
    }
    let path = format!("module use '{}'", folder.path().display());
    let line =
        |path: &str| format!("{path}; module load llm-train; module -t list 2>&1; module unload llm-train; module -t list 2>&1");
    let Some(said) = lmod(&line(&path)) else { return };
    assert!(said.contains("openmpi/4.1") && said.contains("hdf5/1.14") && said.contains("No modules loaded"), "{said}");
    // the same of the Lua one
    let lua = folder.path().join("llm-train").join(concat!(env!("CARGO_PKG_VERSION"), ".lua"));
    let installed =
        std::fs::read_to_string(installed().join("modulefiles/llm-train").join(concat!(env!("CARGO_PKG_VERSION"), ".lua")))
            .unwrap();
    assert!(!installed.contains("depends_on(") && !installed.contains('@'), "{installed}");
    let template = std::fs::read_to_string(crate::root().join("modules/llm-train/modulefile.lua")).unwrap();
    std::fs::write(lua, template.replace("--@DEPENDS@", "depends_on(\"openmpi/4.1\", \"hdf5\")")).unwrap();
    let said = lmod(&line(&path)).unwrap();
    assert!(said.contains("openmpi/4.1") && said.contains("hdf5/1.14") && said.contains("No modules loaded"), "{said}");
}

/// Debian has either it or Lmod: its package is only unpacked, and its one script run by tclsh.
#[test]
fn environment_modules_load_the_tcl_modulefile() {
    let folder = tempfile::tempdir().unwrap();
    let there = format!("cd '{}' && apt-get download -qq environment-modules && dpkg -x *.deb .", folder.path().display());
    let unpacked = bash(&there);
    let script = done(&format!("find '{}' -name modulecmd.tcl | head -n 1", folder.path().display())).trim().to_string();
    if !unpacked.status.success() || !bash("command -v tclsh").status.success() {
        assert!(std::env::var_os("CI").is_none(), "Environment Modules cannot be had: {}", text(&unpacked));
        eprintln!("NOT TESTED: Environment Modules cannot be had here");
        return;
    }
    let module = format!("module() {{ eval \"$(tclsh '{script}' bash \"$@\")\"; }}");
    let said = done(&format!(
        "unset MODULEPATH LOADEDMODULES _LMFILES_ MANPATH LMOD_VERSION; {module}; module use '{}/modulefiles'; {ROUND}",
        installed().display()
    ));
    well(&said);
}

/// The installed Tcl modulefile, or the template with modules that it needs.
fn tcl(needed: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("llm-train")).unwrap();
    let installed = installed().join("modulefiles/llm-train").join(env!("CARGO_PKG_VERSION"));
    let text = std::fs::read_to_string(installed).unwrap();
    assert!(text.contains("set needed  {}") && !text.contains('@'), "{text}");
    let text = text.replace("set needed  {}", &format!("set needed  {{{}}}", needed.join(" ")));
    std::fs::write(folder.path().join("llm-train").join(env!("CARGO_PKG_VERSION")), text).unwrap();
    folder
}
