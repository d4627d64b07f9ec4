// Without this a page lacks nothing but its copy buttons.
"use strict";
const said = document.getElementById("said");

async function copy(code) {
  // Browsers give pages without TLS no clipboard; there the text is selected and copied as by hand.
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(code.textContent);
  }
  getSelection().selectAllChildren(code);
  if (!document.execCommand("copy")) {
    throw new Error("not copied");
  }
}

for (const block of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  const label = document.createElement("span");
  const what = document.createElement("span");
  button.type = "button";
  button.className = "copy";
  label.textContent = "Copy";
  what.className = "hidden";
  what.textContent = ` ${block.dataset.copy}`;
  button.append(label, what);
  let timer;
  button.addEventListener("click", async () => {
    let outcome = "Copied";
    try {
      await copy(block.querySelector("code"));
    } catch {
      outcome = "Not copied";
    }
    label.textContent = outcome;
    said.textContent = `${outcome}: ${block.dataset.copy}`;
    clearTimeout(timer);
    timer = setTimeout(() => {
      label.textContent = "Copy";
      said.textContent = "";
    }, 2000);
  });
  block.append(button);
}
