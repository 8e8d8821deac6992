"use strict";
// Copies a table's LaTeX source; where the browser forbids that, selects it and says so.
{
  const said = document.getElementById("said");
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.of);
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      let done = false;
      try {
        await navigator.clipboard.writeText(source.textContent);
        done = true;
      } catch {
        done = document.execCommand("copy");
      }
      const words = done ? "Copied" : "Selected: copy it with your keyboard";
      button.textContent = words;
      said.textContent = "";
      said.textContent = `${words}: ${button.dataset.title}`;
    });
  }
}
