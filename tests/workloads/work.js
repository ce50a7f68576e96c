const crypto = require("crypto");
const map = new Map();
for (let i = 0; i < 50000; i++) map.set("key" + i, { i, text: "v".repeat(i % 100) });
const text = JSON.stringify([...map].slice(0, 20000));
const buffer = Buffer.alloc(3000000, "ab");
console.log(text.length, crypto.createHash("sha256").update(text).update(buffer).digest("hex"));
require("zlib").deflate(buffer, (error, packed) => {
  console.log(error, packed.length);
  process.exitCode = 5;
});
