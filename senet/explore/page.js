// Runs in each region of the page: what a person does becomes one event, {do: ..., ...}, for the server.
const LIMIT = Number(props.limit);
const send = (what) => trigger("select", what);

const take = (file, slot) => {
  if (!file) return;
  if (file.size > LIMIT) {
    send({ do: "refuse", slot, name: file.name, bytes: file.size });
    return;
  }
  const reader = new FileReader();
  reader.onload = () => send({ do: "picture", slot, name: file.name, data: reader.result.split(",")[1] ?? "" });
  reader.onerror = () => send({ do: "picture", slot, name: file.name });
  reader.readAsDataURL(file);
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button && element.contains(button)) send({ ...button.dataset });
});
element.addEventListener("change", (event) => {
  const input = event.target;
  if (input.type === "radio") send({ ...input.dataset, value: input.value });
  if (input.type === "file") {
    take(input.files[0], input.dataset.slot);
    input.value = ""; // the same file may be chosen again
  }
});
element.addEventListener("input", (event) => {
  const input = event.target;
  if (input.type !== "range") return;
  input.nextElementSibling.textContent = Number(input.value);
  send({ ...input.dataset, value: input.value });
});

// A file dropped beside the places for it must not take the person away from the page.
for (const kind of ["dragover", "drop"]) {
  element.addEventListener(kind, (event) => {
    const place = event.target.closest("[data-slot]");
    if (!place) return;
    event.preventDefault();
    event.stopPropagation();
    place.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0], place.dataset.slot);
  });
  if (!window.senetDrops) document.addEventListener(kind, (event) => event.preventDefault());
}
window.senetDrops = true;
element.addEventListener("dragleave", (event) => event.target.closest("[data-slot]")?.classList.remove("over"));

// What was clicked is what the server says, also where the person clicked faster.
watch("value", () => {
  for (const input of element.querySelectorAll("input[type=radio]")) input.checked = input.hasAttribute("checked");
});
element.dataset.ready = "yes";
