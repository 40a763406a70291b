// What a person does becomes one event, {do: ..., ...}; the server answers with the regions of the page as they are now.
"use strict";
const page = document.querySelector("main");
const limit = Number(page.dataset.limit);
const waiting = [];
let busy = false;

// The key of this tab, by which the server knows its pictures and holds again after a reload.
const key = {
  get: () => { try { return sessionStorage.getItem("senet-explore"); } catch { return window.senetKey ?? null; } },
  set: (value) => { try { sessionStorage.setItem("senet-explore", value); } catch { window.senetKey = value; } },
};

// Make `now` what `next` is, an element at a time: focus, a slider in the hand and the place on the page stay.
const become = (now, next) => {
  if (now.nodeName !== next.nodeName) return now.replaceWith(next);
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.data !== next.data) now.data = next.data;
    return;
  }
  for (const { name } of [...now.attributes]) if (!next.hasAttribute(name)) now.removeAttribute(name);
  for (const { name, value } of next.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  if (now.type === "radio") now.checked = next.hasAttribute("checked");
  if (now.type === "range" && now !== document.activeElement) now.value = next.getAttribute("value");
  const [old, fresh] = [[...now.childNodes], [...next.childNodes]];
  fresh.forEach((each, index) => (index < old.length ? become(old[index], each) : now.append(each)));
  old.slice(fresh.length).forEach((each) => each.remove());
};

const complain = (words) => { document.querySelector("#status [role=alert]").textContent = words; };

const ask = async (what) => {
  const before = key.get();
  const body = JSON.stringify({ tab: before, what });
  const answer = await fetch("do", { method: "POST", headers: { "content-type": "application/json" }, body });
  if (!answer.ok) throw new Error(await answer.text());
  const { tab, regions } = await answer.json();
  const forgotten = before !== null && before !== tab && document.querySelector(".shown") !== null;
  key.set(tab);
  for (const [name, html] of Object.entries(regions)) {
    const region = document.getElementById(name.replace("_", "-"));
    const next = region.cloneNode(false);
    next.innerHTML = html;
    become(region, next);
  }
  if (what?.do === "clear") document.querySelector(`#picture-${what.slot.toLowerCase()} input`).focus(); // its button is gone
  if (forgotten) complain("The server no longer has the pictures and holds of this page (was it started again?): drop the pictures again.");
};

const send = async (what) => {
  // a slider says a hundred things, of which the last counts; elsewhere each does
  if (what?.do === "factor" && waiting.at(-1)?.do === "factor") waiting.pop();
  waiting.push(what);
  if (busy) return;
  busy = true;
  page.setAttribute("aria-busy", "true");
  while (waiting.length) {
    try {
      await ask(waiting.shift());
    } catch (error) {
      const gone = error instanceof TypeError;
      const words = gone ? "The server does not answer. Is senet explore still running?" : error.message;
      complain(words);
    }
  }
  page.removeAttribute("aria-busy");
  busy = false;
};

const take = (file, slot) => {
  if (!file) return;
  if (file.size > limit) {
    send({ do: "refuse", slot, name: file.name, bytes: file.size });
    return;
  }
  const reader = new FileReader();
  reader.onload = () => send({ do: "picture", slot, name: file.name, data: reader.result.split(",")[1] ?? "" });
  reader.onerror = () => send({ do: "picture", slot, name: file.name });
  reader.readAsDataURL(file);
};

page.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button) send({ ...button.dataset });
});
page.addEventListener("change", (event) => {
  const input = event.target;
  if (input.type === "radio") send({ ...input.dataset, value: input.value });
  if (input.type === "file") {
    take(input.files[0], input.dataset.slot);
    input.value = ""; // the same file may be chosen again
  }
});
page.addEventListener("input", (event) => {
  const input = event.target;
  if (input.type !== "range") return;
  input.nextElementSibling.textContent = Number(input.value);
  send({ ...input.dataset, value: input.value });
});

// A file dropped beside the places for it must not take the person away from the page.
for (const kind of ["dragover", "drop", "dragleave"]) {
  document.addEventListener(kind, (event) => {
    const place = event.target.closest?.("[data-slot]");
    if (kind !== "dragleave") event.preventDefault();
    place?.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && place) take(event.dataTransfer.files[0], place.dataset.slot);
  });
}

send(null).then(() => (page.dataset.ready = "yes"));
