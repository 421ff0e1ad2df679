/** The nodes that read a saved file: a button that puts a file of this computer into the server's output folder. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { languageOf } from "./lib/texts.js";

const FOLDER = "stability";
/** What the button says, by the class of the node. */
const LABELS = { SADLoadStabilityTrace: "uploadTrace", SADLoadStabilityBaseline: "uploadBaseline" };
const { text } = languageOf(app);

app.registerExtension({
  name: "symmetric_attention.upload_file",
  nodeCreated(node) {
    const label = LABELS[node.comfyClass];
    if (!label) return;
    const list = node.widgets?.find((widget) => widget.name === "file");
    const askForFile = async () => {
      const [file] = await chosenFiles();
      if (!file) return;
      try {
        choose(list, await upload(file));
      } catch (error) {
        app.extensionManager?.toast?.add({ severity: "error", summary: node.title, detail: error.message });
      }
    };
    const button = node.addWidget("button", "upload", null, askForFile, { serialize: false }); // nothing of it in prompts
    button.serialize = false; // and nothing in workflows
    button.label = text(label);
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
  if (!answer.ok) throw new Error(text("refused", { file: file.name, status: answer.status }));
  const { name, subfolder } = await answer.json();
  return [subfolder, name].filter(Boolean).join("/");
}

function choose(list, name) {
  const names = list.options.values;
  if (Array.isArray(names) && !names.includes(name)) list.options.values = [...names, name];
  list.value = name;
  list.callback?.(name);
}
