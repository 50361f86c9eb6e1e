"""How answers in German, French, Spanish, Japanese and Chinese say that their documents hold none.

Only what models commonly write: a phrase that may say something of things too ("nicht enthalten", "无法") is taken only
where documents are named beside, and at the end of a sentence where a clause could go on from it (記載のない事項は).
"""

from __future__ import annotations

import re

__all__ = ["ABSTENTION_ELSEWHERE", "DOCUMENTS_ELSEWHERE", "NOTHING_ELSE_ELSEWHERE", "TURNS_ELSEWHERE"]

TURNS_ELSEWHERE = (
    r"\b(?:aber|jedoch|allerdings|dennoch|mais|cependant|toutefois|pero|sin\s+embargo)\b|"
    r"しかし|ただし|但是?|然而|[。；]"
)

_GERMAN = r"(?:dokument|unterlage|text|passage|quelle|bericht|auszug|auszüge|abschnitt|kontext|informatione?n)\w{0,10}"
_FRENCH = r"(?:documents?|textes?|passages?|extraits?|sources?|rapports?|contexte|informations)"
_SPANISH = (
    r"(?:documentos?|textos?|pasajes?|fragmentos?|fuentes?|informes?|extractos?|contexto|informaci[oó]n)"
)
_JAPANESE = (
    r"(?:資料|文書|ドキュメント|文章|本文|テキスト|抜粋|記事|レポート|報告書|コンテキスト|文脈|情報源|"
    r"提供された情報)"
)
_CHINESE = r"(?:文档|文檔|文件|资料|資料|材料|文本|段落|原文|报告|報告|上下文|来源|來源|文中|信息中|資訊中)"

DOCUMENTS_ELSEWHERE = (
    rf"(?:{_GERMAN}|documents?|textes?|passages?|extraits?|documentos?|textos?|pasajes?|つの{_JAPANESE}|"
    rf"件の{_JAPANESE}|[份个個篇]{_CHINESE})"
)

_WORDS = r"(?:[^\W\d]+\s+)"
# "der vorliegenden Dokumente": words between an article and its noun.
_IN_GERMAN = rf"(?:in|aus|im|laut|durch|von)\s+{_WORDS}{{0,3}}?{_GERMAN}"
_IN_FRENCH = rf"(?:dans|par|à\s+partir\s+d[eu]s?)\s+{_WORDS}{{0,2}}?{_FRENCH}"
_IN_SPANISH = rf"(?:en|por|de|con)\s+(?:los?|las?|estos?|estas?|el|ningun[oa])\s+{_WORDS}{{0,2}}?{_SPANISH}"
_NO_INFORMATION_GERMAN = (
    r"keine(?:rlei|n)?\s+" + _WORDS + r"{0,2}?"
    r"(?:angaben?|informationen|auskunft|auskünfte|hinweise?|aussagen?|antwort)\b"
)
_NO_INFORMATION_FRENCH = (
    r"(?:aucune?|pas\s+d['e’]\s?)\s?" + _WORDS + r"{0,1}?"
    r"(?:informations?|mention|données?|indications?|réponse|précisions?)\b"
)
_NO_INFORMATION_SPANISH = (
    r"(?:ningun[oa]?|ningún|sin)?\s*" + _WORDS + r"{0,1}?"
    r"(?:informaci[oó]n|datos|respuesta|menci[oó]n|detalles?)\b"
)
# Ends a sentence in Japanese.
_ENDS = r"(?:でした|です|ため|ので|と(?=思|考|判断))?(?=[\s。．.、,，|｜」）)*]|\Z)"
_NOT_THERE = rf"(?:(?:ありません|ございません|いません|おりません|ません|ない|無い|なし|なかった){_ENDS})"

ABSTENTION_ELSEWHERE = re.compile(
    rf"""
    # German
      \b{_GERMAN}\s+(?:\d+\s+(?:und\s+\d+\s+)?)?{_WORDS}{{0,2}}?
          (?:enth(?:ält|alten|ielten)|mach(?:t|en)|g(?:ibt|eben)|nenn(?:t|en)|liefer(?:t|n)|biet(?:et|en)|findet|finden)\s+
          {_WORDS}{{0,4}}?{_NO_INFORMATION_GERMAN}
    | \b{_GERMAN}\s+{_WORDS}{{0,2}}?(?:nenn(?:t|en)|erwähn(?:t|en)|beantworte(?:t|n)|sag(?:t|en)|besag(?:t|en))\s+
          {_WORDS}{{0,5}}?(?:nicht\b(?!\s+nur)|nichts\b)
    | {_NO_INFORMATION_GERMAN}\s+(?:{_WORDS}{{0,6}}?{_IN_GERMAN}|{_WORDS}{{0,4}}?(?:vor(?:handen|liegend)?|gefunden|
          enthalten)\b(?=\s*(?:\Z|[.;,!|)*\n])))
    | \b{_IN_GERMAN}\s+(?:gibt\s+es|(?:be)?finde[nt](?:\s+sich)?|steh(?:t|en)|lieg(?:t|en)|ist|sind|wird|werden)\s+
          {_WORDS}{{0,4}}?(?:{_NO_INFORMATION_GERMAN}|nichts\b)
    | \b{_IN_GERMAN}\s+{_WORDS}{{0,5}}?nicht\s+
          (?:hervor|(?:zu\s+)?entnehmen|genannt|angegeben|erwähnt|enthalten|aufgeführt|beantworte[nt]|bestimmen|ersichtlich)\b
    | \bnicht\s+{_WORDS}{{0,1}}?{_IN_GERMAN}
    | \b(?:geht|lässt)\s+(?:sich\s+)?{_WORDS}{{0,3}}?{_IN_GERMAN}\s+nicht\b
    | \bnicht\s+(?:angegeben|genannt|erwähnt|ausgewiesen|offengelegt|beziffert)\b(?!\s+(?:werden|sein|zu|haben)\b)
    | \b(?:frage|ich)\b\s?{_WORDS}{{0,4}}?nicht\s+{_WORDS}{{0,1}}?(?:beantwort\w+)\b
    | \bdazu\s+lieg\w+\s+{_WORDS}{{0,2}}?{_NO_INFORMATION_GERMAN}

    # French
    | \b{_FRENCH}\s+{_WORDS}{{0,3}}?n(?:e\s+|['’]\s?){_WORDS}{{0,1}}?
          (?:contien(?:nen)?t|mentionne(?:nt)?|précise(?:nt)?|indique(?:nt)?|fourni(?:ssen)?t|donne(?:nt)?|permet(?:tent)?|
          di(?:t|sent)|comporte(?:nt)?|répond(?:ent)?|évoque(?:nt)?)\s+{_WORDS}{{0,1}}?(?:pas|aucune?|rien|ni)\b
    | \bn['’]\s?(?:est|a|ont|sont)\s+pas\s+(?:été\s+)?(?:mentionn|précis|communiqu|divulgu|spécifi|
          indiqu(?=ée?s?\s*(?:\Z|[.;,!|)*\n])))ée?s?\b
    | \bn['’e]\s?(?:est|sont|figure(?:nt)?|apparaît|apparaissent|trouve)\s+(?:pas|nulle\s+part)\s+{_WORDS}{{0,2}}?
          {_IN_FRENCH}
    | {_NO_INFORMATION_FRENCH}\s+(?:à\s+ce\s+sujet|{_WORDS}{{0,5}}?(?:n['’]\s?(?:est|y)\s+{_WORDS}{{0,1}}?)?
          (?:{_IN_FRENCH}|fournie?s?\b|disponibles?\b|mentionnée?s?\b|donnée?s?\b))
    | \b(?:je\s+ne|on\s+ne)\s+(?:sais|peux|peut)\s+pas\b(?=\s*(?:\Z|[.;,!|)*\n])|\s+(?:répondre|déterminer|dire)\b)
    | \bimpossible\s+de\s+(?:répondre|déterminer|le\s+savoir)\b

    # Spanish
    | \b{_SPANISH}\s+{_WORDS}{{0,3}}?no\s+(?:lo\s+)?(?:mencionan?|indican?|especifican?|dicen?|precisan?|responden?|
          (?:contienen?|proporcionan?|incluyen?|ofrecen?|aportan?|dan?)\s+{_NO_INFORMATION_SPANISH})
    | \bno\s+(?:se\s+|est[aá]n?\s+|vienen?\s+|aparecen?\s+|figuran?\s+|constan?\s+){{1,2}}{_WORDS}{{0,2}}?{_IN_SPANISH}
    | \bno\s+se\s+(?:mencionan?|especifican?|detallan?)\b
    | \bno\s+(?:hay|existe|existen|se\s+encuentran?|se\s+encontró)\s+{_NO_INFORMATION_SPANISH}
          (?=\s*(?:\Z|[.;,!|)*\n])|\s+(?:sobre|disponible|suficiente|al\s+respecto|acerca|relacionada|{_IN_SPANISH}))
    | \bno\s+(?:puedo|es\s+posible|se\s+puede)\s+(?:responder|determinar|saberlo|contestar)\b
    | \bno\s+lo\s+sé\b

    # Japanese
    | {_JAPANESE}[^。\n]{{0,40}}?(?:記載|記述|言及|情報|答え|回答|明記|説明|
          書かれ|示され|述べられ|触れられ|見つか|見当た|含ま)
          [ぁ-ん含見当出得存在]{{0,10}}?{_NOT_THERE}  # not 記載のない商品は返品できません
    | (?:記載|記述|言及|明記)(?:[はがも]|され|して){{0,2}}?(?:て)?(?:い|あり|おり|ござい)?{_NOT_THERE}
    | (?:{_JAPANESE}|質問)[^。\n]{{0,40}}?(?:分か|わか|判断|回答|お?答え|特定|確認|読み取)[^。、\n]{{0,5}}?{_NOT_THERE}
    | {_JAPANESE}[^。\n]{{0,20}}?不明(?:です|である)?{_ENDS}

    # Chinese
    | {_CHINESE}[^。，；\n]{{0,20}}?(?:没有|沒有|并未|並未|未曾|未|没)(?:明确|具体|明確|直接)?
          (?:提及|提到|说明|說明|记载|記載|指明|给出|給出|披露|(?:包含|提供|涉及|含有|有)[^。，；\n]{{0,12}}?
          (?:信息|内容|答案|資訊|说明|数据)|相关(?:信息|内容)|答案)
    | (?:无法|不能|無法)(?:从|根据|根據|依据|由|在)[^。，；\n]{{0,20}}?(?:得知|确定|確定|判断|回答|找到|得出)
    | (?:{_CHINESE}|问题|問題)[^。；\n]{{0,20}}?(?:无法|無法)(?:回答|确定|確定|得知|判断)
    """,
    re.VERBOSE | re.IGNORECASE,
)

# An answer that is no more than this, in house style too: "ANTWORT: keine Angabe | QUELLE: keine".
NOTHING_ELSE_ELSEWHERE = re.compile(
    r"\W*(?:(?:antwort|réponse|respuesta|回答|答え|答案|answer)\W+)?"
    r"(?:keine\s+(?:angaben?|informationen|antwort)(?:\s+(?:dazu|hierzu|vorhanden|gefunden|verfügbar))?|"
    r"nicht\s+(?:bekannt|vorhanden|enthalten)|unbekannt|"
    r"non\s+(?:précisée?|mentionnée?|indiquée?|communiquée?|spécifiée?)|(?:aucune|pas\s+d['’])\s?information|inconnue?|"
    r"no\s+(?:especificad[oa]|indicad[oa]|mencionad[oa]|disponible|consta)|sin\s+(?:información|datos)|desconocid[oa]|"
    r"不明(?:です)?|該当(?:する情報)?(?:なし|はありません|がありません)|(?:記載|情報|回答)(?:は|が)?(?:なし|ありません|ない)|"
    r"(?:分かり|わかり)ません|未提及|未说明|不详|无法回答|不知道|未知|(?:没有|无)(?:相关)?(?:信息|资料|答案))"
    r"\W*(?:(?:quellen?|source|fuente|出典|来源)\W+(?:keine?|aucune|ninguna|なし|无|無|none)\W*)?",
    re.IGNORECASE,
)
