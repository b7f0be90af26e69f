"""The style sheet of the report's page; its colours are the variables of ``palette``."""

STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.55;font-size:16px;
font-family:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:40px 20px 80px}
header p.meta{color:var(--muted);font-size:14px;margin:0 0 10px}
h1{font-size:clamp(22px,3.2vw,32px);line-height:1.25;letter-spacing:-.015em;margin:0 0 14px;
max-width:32em;text-wrap:balance}
h2{font-size:20px;letter-spacing:-.01em;margin:0 0 4px}
h3{font-size:15px;margin:30px 0 8px}
h3 .note{font-weight:400;margin-left:6px}
p{margin:0 0 12px;max-width:72ch}
p.lead{font-size:17px}
.muted,figcaption,.note{color:var(--muted);font-size:14px}
section,.facts{background:var(--card);border:1px solid var(--line);border-radius:14px}
section{padding:24px 26px;margin-top:20px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));margin:26px 0 0;
padding:0;overflow:hidden}
.facts div{padding:16px 20px;border-right:1px solid var(--line);margin-right:-1px}
.facts dt{color:var(--muted);font-size:13px}
.facts dd{margin:2px 0 0;font-size:24px;font-weight:650;letter-spacing:-.02em;line-height:1.25}
.facts dd small{display:block;font-size:13px;font-weight:400;letter-spacing:0;color:var(--muted)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,410px),1fr));gap:18px 30px}
figure{margin:16px 0 0;min-width:0}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figure>div{overflow-x:auto}
figcaption{margin-top:6px}
figure>b{display:block;font-size:14px;font-weight:650;margin-bottom:6px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:12px 0 0;list-style:none;
font-size:13.5px}
.legend li{display:flex;align-items:center;gap:7px}
.legend i{width:12px;height:12px;border-radius:3px;flex:none}
.legend i.star,.legend i.diamond{border-radius:0;background:var(--muted)}
.legend i.diamond{transform:rotate(45deg) scale(.8)}
.legend i.star{width:16px;height:16px;clip-path:polygon(50% 0,63% 34%,98% 35%,70% 57%,79% 91%,
50% 71%,21% 91%,30% 57%,2% 35%,37% 34%)}
.legend i.round{border-radius:50%;width:9px;height:9px}
.scroll{overflow-x:auto;margin:10px -4px 0;padding:0 4px}
table{border-collapse:collapse;width:100%;font-size:14.5px}
th,td{text-align:right;padding:8px 12px;border-bottom:1px solid var(--line);vertical-align:top;
white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal;min-width:11em}
thead th{color:var(--muted);font-weight:500;font-size:13px;white-space:normal;vertical-align:bottom}
thead th::first-letter{text-transform:uppercase}
th:first-child{position:sticky;left:0;background:var(--card)}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
tbody th{font-weight:500}
td small{display:block;color:var(--muted);font-size:12px}
tr.full th,tr.full td{background:color-mix(in srgb,var(--arm-full) 7%,var(--card))}
tr.full th{font-weight:650;box-shadow:inset 3px 0 var(--arm-full);padding-left:12px}
td.best b{color:var(--good)}
td.best b::after{content:" \\2713";font-size:12px}
th i.dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:9px}
td.left{text-align:left;white-space:normal}
details{margin-top:14px;font-size:14px}
summary{cursor:pointer;color:var(--muted)}
pre{background:var(--soft);border-radius:8px;padding:12px 14px;overflow-x:auto;font-size:13.5px;
white-space:pre-wrap;word-break:break-word;margin:8px 0 14px}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.93em}
.tag{display:inline-block;border-radius:20px;padding:2px 11px;font-size:13px;font-weight:600}
.tag.ok{color:var(--good);background:color-mix(in srgb,var(--good) 13%,transparent)}
.tag.open{color:var(--muted);background:var(--soft)}
.tag.bad{color:var(--bad);background:color-mix(in srgb,var(--bad) 13%,transparent)}
footer{color:var(--muted);font-size:13.5px;margin-top:28px}
@media(max-width:560px){main{padding:24px 12px 60px}section{padding:18px 16px}
th,td{padding:7px 8px}.facts dd{font-size:20px}th:first-child,td:first-child{min-width:8.5em}
figure>div.wide svg{width:620px}}
@media print{body{background:none}section{break-inside:avoid}details{display:none}}
"""
