"""How answers in German, French, Spanish, Japanese and Chinese say that their documents hold none.

Only what models commonly write: a phrase that may say something of things too ("nicht enthalten", "无法") is taken only
where documents are named beside, and at the end of a sentence where a clause could go on from it (記載のない事項は).
"""

from __future__ import annotations

import re

__all__ = ["DOCUMENTS_ELSEWHERE", "NOTHING_ELSE_ELSEWHERE", "TURNS_ELSEWHERE", "abstention_elsewhere"]

TURNS_ELSEWHERE = (
    r"\b(?:aber|jedoch|allerdings|dennoch|mais|cependant|toutefois|pero|sin\s+embargo)\b|"
    r"しかし|ただし|但是?|然而|[。；]"
)

# With their endings alone: "Berichtsjahr" and "Textilindustrie" are no documents.
_GERMAN = (
    r"(?:dokument(?:en?|e?s)?|unterlagen?|text(?:en?|e?s)?|quellen?|berichte?[ns]?|kontext\w{0,2}|informationen|"
    r"textstellen?|(?:text)?(?:passagen?|auszug\w{0,2}|auszüge\w?|abschnitt\w{0,2}))\b"
)
_FRENCH = (
    r"(?:documents?|documentation|textes?|passages?|extraits?|sources?|rapports?|contexte|informations)\b"
)
_SPANISH = (
    r"(?:documentos?|documentaci[oó]n|textos?|pasajes?|fragmentos?|fuentes?|informes?|extractos?|contexto|"
    r"informaci[oó]n)\b"
)
_JAPANESE = (
    r"(?:資料|文書|ドキュメント|文章|本文|テキスト|抜粋|記事|レポート|報告書|コンテキスト|文脈|情報源|"
    r"提供された情報)"
)
_CHINESE = r"(?:文档|文檔|文件|资料|資料|材料|文本|段落|原文|报告|報告|上下文|来源|來源|文中|信息中|資訊中)"

# Follows a number.
DOCUMENTS_ELSEWHERE = (
    rf"(?:\s+(?:\w+\s+)?(?:{_GERMAN}|(?:documents?|textes?|passages?|extraits?|documentos?|textos?|pasajes?)\b)|"
    rf"\s*(?:[つ件]の{_JAPANESE}|[份个個篇]{_CHINESE}))"
)

_WORDS = r"(?:[^\W\d]+\s+)"
# "der vorliegenden Dokumente": words between an article and its noun.
_IN_GERMAN = rf"(?:in|aus|im|laut|durch|von)\s+{_WORDS}{{0,3}}?{_GERMAN}"
_IN_FRENCH = rf"(?:dans|par|à\s+partir\s+d[eu]s?)\s+{_WORDS}{{0,2}}?{_FRENCH}"
_IN_SPANISH = rf"(?:en|por|de|con)\s+(?:los?|las?|estos?|estas?|el|ningun[oa])\s+{_WORDS}{{0,2}}?{_SPANISH}"
_NO_INFORMATION_GERMAN = (
    r"keine(?:rlei|n)?\s+" + _WORDS + r"{0,2}?"
    r"(?:angaben?|informationen|auskunft|auskünfte|hinweise?|aussagen?|antwort|aufschluss)\b"
)
# Ends a sentence or clause; what a citation follows has ended too.
_ENDS_A_CLAUSE = r"(?=\s*(?:\Z|[.;!|)*\n\[]|,(?!\s*sondern\b)))"
_NO_INFORMATION_FRENCH = (
    r"(?:aucune?|pas\s+d['e’]\s?)\s?" + _WORDS + r"{0,1}?"
    r"(?:informations?|mention|données?|indications?|réponse|précisions?)\b"
)
_NO_INFORMATION_SPANISH = (
    r"(?:(?:ningun[oa]?|ningún|sin)\s+)?" + _WORDS + r"{0,1}?"
    r"(?:informaci[oó]n|datos|respuesta|menci[oó]n|detalles?)\b"
)
# Ends a sentence in Japanese.
_ENDS = r"(?:でした|です|ため|ので|と(?=思|考|判断))?(?=[\s。．.、,，|｜」）)*]|\Z)"
_NOT_THERE = rf"(?:(?:ありません|ございません|いません|おりません|ません|ない|無い|なし|なかった){_ENDS})"

_ABSTENTION = re.compile(
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
          (?!\s+sein\b)
    | \bnicht\s+{_WORDS}{{0,1}}?{_IN_GERMAN}(?:\s+\d{{1,3}}(?:\s+(?:und|oder|bis)\s+\d{{1,3}})?)?(?:\s+
          (?:angegeben|aufgeführt|beantworten|behandelt|bestimmen|(?:zu\s+)?entnehmen|enthalten|ermitteln|ersichtlich|
          erwähnt|genannt|hervor|vorhanden|zu\s+finden)(?:\s+(?:ist|sind|wird|werden))?)?{_ENDS_A_CLAUSE}
    | \b(?:geht|lässt)\s+(?:sich\s+)?{_WORDS}{{0,3}}?{_IN_GERMAN}\s+nicht\b
    | \bnicht\s+(?:angegeben|genannt|erwähnt|ausgewiesen|offengelegt|beziffert)\b(?!\s+(?:werden|sein|zu|haben)\b)
    | \b(?:frage|ich)\b\s?{_WORDS}{{0,4}}?nicht\s+{_WORDS}{{0,1}}?(?:beantwort\w+)\b
    | \b(?:das\s+wei(?:ß|ss)\s+ich|ich\s+wei(?:ß|ss)(?:\s+(?:es|das))?)\s+(?:leider\s+)?nicht{_ENDS_A_CLAUSE}
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
    # not "No se proporciona información sobre clientes a terceros"
    | \bno\s+se\s+(?:proporcionan?|ofrecen?|facilitan?|incluyen?|aportan?|dan?)\s+{_NO_INFORMATION_SPANISH}
          (?:(?=\s*(?:\Z|[.;,!|)*\n]))|(?=\s+(?:sobre|suficiente|al\s+respecto|acerca|{_IN_SPANISH}))
          (?![^.;\n]{{0,80}}\sal?\s+(?:l[ao]s|terceros|nadie|personas?|clientes?|p[uú]blico)\b))
    | \bno\s+(?:encuentro|encontr[eé]|he\s+encontrado|veo)\s+{_WORDS}{{0,4}}?(?:{_IN_SPANISH}|
          (?:informaci[oó]n|datos?|respuesta|menci[oó]n|detalles?)\b
          (?=\s*(?:\Z|[.;,!|)*\n])|\s+(?:sobre|suficiente|al\s+respecto|acerca|relacionada|{_IN_SPANISH})))
    | \bno\s+(?:puedo|es\s+posible|se\s+puede)\s+(?:responder|determinar|saberlo|contestar)\b
    | \bno\s+lo\s+sé\b

    # Japanese; not パスワードは文書に記載しません, この文書は機密情報を含みません, 資料の確認は必要ありません
    | {_JAPANESE}[^。\n]{{0,40}}?(?:(?:記載|記述|回答|明記|説明)(?!し)|情報(?!を)|言及(?!しま|しな)|答え|
          書かれ|示され|述べられ|触れられ|見つか|見当た|含ま)(?![はがも]い[りら])
          [ぁ-ん含見当出得存在]{{0,10}}?{_NOT_THERE}  # not 記載のない商品は返品できません
    | {_JAPANESE}[^。\n]{{0,40}}?(?:に関する|についての|に関連する|その|該当する)情報を(?:含んで|含み|提供して|示して)
          [いお]?り?{_NOT_THERE}
    | (?:記載|記述|言及|明記)(?:[はがも]|され|(?<=言及)して){{0,2}}?(?:て)?(?:い|あり|おり|ござい)?{_NOT_THERE}
    | (?:{_JAPANESE}|質問)[^。\n]{{0,40}}?(?:(?:分か|わか)[りら]|(?:判断|判別|回答|お?答え|特定|確認|読み取)
          (?:す?る)?(?:こと)?[はがも]?(?:でき|られ|れ|つき|つか)){_NOT_THERE}
    | {_JAPANESE}[^。\n]{{0,20}}?不明(?:です|である)?{_ENDS}

    # Chinese; not 文件中没有个人数据, 资料无法确定时
    | {_CHINESE}[^。，；\n]{{0,20}}?(?:没有|沒有|并未|並未|未曾|未|没)(?:明确|具体|明確|直接)?
          (?:提及|提到|说明|說明|记载|記載|指明|给出|給出|披露|答案|
          (?:包含|提供|涉及|含有|有|(?<=[没沒]有))(?:(?!个人|個人|敏感|机密|機密|保密|隐私|客户|泄)[^。，；\n]){{0,12}}?
          (?:信息|答案|資訊|说明|(?:相关|相關|关于|關於|有关|有關)[^。，,；\n]{{0,10}}?(?:内容|內容|数据|數據|资料|資料)))
          (?!的?[时時]|的话)
    | (?:无法|不能|無法)(?:从|根据|根據|依据|由|在)[^。，；\n]{{0,20}}?(?:得知|确定|確定|判断|回答|找到|得出)
          (?!的?[时時]|的话)
    | (?:{_CHINESE}|问题|問題)[^。；\n]{{0,20}}?(?:无法|無法)(?:回答|确定|確定|得知|判断)(?!的?[时時]|的话)
    | 我们?(?:暂时|目前|也)?(?:无法|無法|不能)(?:直接|准确)?(?:回答|确定|確定|得知|判断)(?!的?[时時]|的话)
    | (?:无法|無法|不能)(?:直接|准确)?回答(?:这个|這個|这一|该|該|此|您的|你的)(?:问题|問題)(?!的?[时時]|的话)
    """,
    re.VERBOSE | re.IGNORECASE,
)

# 若资料无法确定,应由主管判断: what holds where a document says nothing. Not Japanese 若干, 若手.
_CONDITION = re.compile(
    rf"(?:若(?![干手者年いく])|如果(?![您你]问)|假如|如(?=[该本此相关现有]{{0,2}}{_CHINESE})|(?<=[^同届平暂临]时)[,，])"
    r"[^。；;！!？?\n]*"
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


def abstention_elsewhere(answer: str) -> re.Match[str] | None:
    """Where an answer says so, at the same place as in the answer itself; what follows a condition does not count."""
    return _ABSTENTION.search(_CONDITION.sub(lambda condition: "…" * len(condition[0]), answer))
