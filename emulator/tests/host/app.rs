//! Apps of the scripted handler, as folders and as zips.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use emulator::host::HostOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The program beside this one.
pub(crate) fn handler() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_scripted-handler"))
}

/// A folder that lives as long as this.
pub(crate) struct App {
    pub folder: TempDir,
    host_json: Value,
}

impl App {
    pub(crate) fn new() -> Self {
        let description = json!({"defaultExecutablePath": handler().display().to_string()});
        let host_json =
            json!({"version": "2.0", "customHandler": {"description": description, "enableProxyingHttpRequest": true}});
        let app = Self { folder: TempDir::new().expect("a folder"), host_json };
        app.write_host();
        app
    }

    fn write_host(&self) {
        fs::write(self.folder.path().join("host.json"), self.host_json.to_string()).expect("written");
    }

    /// Changes `host.json`.
    pub(crate) fn host(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.host_json);
        self.write_host();
        self
    }

    pub(crate) fn function(self, name: &str, bindings: &Value) -> Self {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("function.json"), json!({"bindings": bindings}).to_string()).expect("written");
        self
    }

    pub(crate) fn timer(self, name: &str, schedule: &str) -> Self {
        self.function(name, &json!([{"type": "timerTrigger", "direction": "in", "name": "timer", "schedule": schedule}]))
    }

    pub(crate) fn queue(self, name: &str, queue: &str) -> Self {
        self.function(name, &json!([{"type": "queueTrigger", "direction": "in", "name": "message", "queueName": queue}]))
    }

    /// With its output `res`.
    pub(crate) fn http(self, name: &str, trigger: &Value) -> Self {
        let mut binding = json!({"type": "httpTrigger", "direction": "in", "name": "req"});
        binding.as_object_mut().expect("an object").extend(trigger.as_object().cloned().unwrap_or_default());
        self.function(name, &json!([binding, {"type": "http", "direction": "out", "name": "res"}]))
    }

    pub(crate) fn options(&self) -> HostOptions {
        HostOptions::new(self.folder.path())
    }

    /// Zipped, with the handler as `handler`, in this mode.
    pub(crate) fn zipped(mut self, into: &Path, mode: u32) -> PathBuf {
        self.host_json["customHandler"]["description"]["defaultExecutablePath"] = json!("handler");
        self.write_host();
        let path = into.join("app.zip");
        let mut zip = zip::ZipWriter::new(fs::File::create(&path).expect("a file"));
        let plain = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("handler", plain.unix_permissions(mode)).expect("begun");
        zip.write_all(&fs::read(handler()).expect("the handler")).expect("written");
        let mut files = vec![self.folder.path().join("host.json")];
        let folders =
            fs::read_dir(self.folder.path()).expect("a folder").flatten().map(|entry| entry.path().join("function.json"));
        files.extend(folders.filter(|path| path.is_file()));
        for file in files {
            let name = file.strip_prefix(self.folder.path()).expect("below").display().to_string();
            zip.start_file(name, plain.unix_permissions(0o644)).expect("begun");
            zip.write_all(&fs::read(&file).expect("a file")).expect("written");
        }
        zip.finish().expect("written");
        path
    }
}
