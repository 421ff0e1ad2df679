/** Load Stability Trace (SAD): a button that puts a file of this computer into the server's output folder. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const FOLDER = "stability";

app.registerExtension({
  name: "symmetric_attention.upload_trace",
  nodeCreated(node) {
    if (node.comfyClass !== "SADLoadStabilityTrace") return;
    const list = node.widgets?.find((widget) => widget.name === "file");
    const button = node.addWidget("button", "upload", null, async () => {
      const [file] = await chosenFiles();
      if (!file) return;
      try {
        choose(list, await upload(file));
      } catch (error) {
        app.extensionManager?.toast?.add({ severity: "error", summary: "Load Stability Trace (SAD)", detail: error.message });
      }
    });
    button.serialize = false; // nothing of it is saved with the workflow
    button.label = "upload a trace";
  },
});

/** The file that the user picks; none where they pick none. */
function chosenFiles() {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: ".safetensors" });
  return new Promise((resolve) => {
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}

/** The name of the file below the output folder, once it is there. */
async function upload(file) {
  const body = new FormData();
  body.append("image", file); // the editor's own way in for files of any kind
  body.append("type", "output");
  body.append("subfolder", FOLDER);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`The server did not take ${file.name} (status ${answer.status}).`);
  const { name, subfolder } = await answer.json();
  return [subfolder, name].filter(Boolean).join("/");
}

function choose(list, name) {
  const names = list.options.values;
  if (Array.isArray(names) && !names.includes(name)) list.options.values = [...names, name];
  list.value = name;
  list.callback?.(name);
}
