"""Plain data tables behind the quickstart corpus; every row is a fact with exactly one right answer."""

from __future__ import annotations

_Row = tuple[str, ...]


def _table(text: str) -> tuple[_Row, ...]:
    cells = text.replace("\n", ";").split(";")
    return tuple(tuple(part.strip() for part in cell.split("|")) for cell in cells if cell.strip())


def _words(text: str) -> _Row:
    return tuple(text.split())


COUNTRIES = _table("""
France|Paris|法国|巴黎|Europe; Germany|Berlin|德国|柏林|Europe; Italy|Rome|意大利|罗马|Europe
Spain|Madrid|西班牙|马德里|Europe; Portugal|Lisbon|葡萄牙|里斯本|Europe
the United Kingdom|London|英国|伦敦|Europe; Ireland|Dublin|爱尔兰|都柏林|Europe
Belgium|Brussels|比利时|布鲁塞尔|Europe; the Netherlands|Amsterdam|荷兰|阿姆斯特丹|Europe
Switzerland|Bern|瑞士|伯尔尼|Europe; Austria|Vienna|奥地利|维也纳|Europe; Poland|Warsaw|波兰|华沙|Europe
Hungary|Budapest|匈牙利|布达佩斯|Europe; Greece|Athens|希腊|雅典|Europe
Sweden|Stockholm|瑞典|斯德哥尔摩|Europe; Norway|Oslo|挪威|奥斯陆|Europe
Denmark|Copenhagen|丹麦|哥本哈根|Europe; Finland|Helsinki|芬兰|赫尔辛基|Europe
Iceland|Reykjavik|冰岛|雷克雅未克|Europe; Ukraine|Kyiv|乌克兰|基辅|Europe
Romania|Bucharest|罗马尼亚|布加勒斯特|Europe; Bulgaria|Sofia|保加利亚|索非亚|Europe
Serbia|Belgrade|塞尔维亚|贝尔格莱德|Europe; Croatia|Zagreb|克罗地亚|萨格勒布|Europe
Estonia|Tallinn|爱沙尼亚|塔林|Europe; Latvia|Riga|拉脱维亚|里加|Europe
Lithuania|Vilnius|立陶宛|维尔纽斯|Europe; Albania|Tirana|阿尔巴尼亚|地拉那|Europe
Malta|Valletta|马耳他|瓦莱塔|Europe; Russia|Moscow|俄罗斯|莫斯科|; Turkey|Ankara|土耳其|安卡拉|
Egypt|Cairo|埃及|开罗|Africa; China|Beijing|中国|北京|Asia; Japan|Tokyo|日本|东京|Asia
South Korea|Seoul|韩国|首尔|Asia; North Korea|Pyongyang|朝鲜|平壤|Asia
Mongolia|Ulaanbaatar|蒙古|乌兰巴托|Asia; India|New Delhi|印度|新德里|Asia
Pakistan|Islamabad|巴基斯坦|伊斯兰堡|Asia; Nepal|Kathmandu|尼泊尔|加德满都|Asia
Bangladesh|Dhaka|孟加拉国|达卡|Asia; Thailand|Bangkok|泰国|曼谷|Asia; Vietnam|Hanoi|越南|河内|Asia
Laos|Vientiane|老挝|万象|Asia; Cambodia|Phnom Penh|柬埔寨|金边|Asia
Malaysia|Kuala Lumpur|马来西亚|吉隆坡|Asia; the Philippines|Manila|菲律宾|马尼拉|Asia
Iran|Tehran|伊朗|德黑兰|Asia; Iraq|Baghdad|伊拉克|巴格达|Asia; Saudi Arabia|Riyadh|沙特阿拉伯|利雅得|Asia
Jordan|Amman|约旦|安曼|Asia; Qatar|Doha|卡塔尔|多哈|Asia; Afghanistan|Kabul|阿富汗|喀布尔|Asia
Lebanon|Beirut|黎巴嫩|贝鲁特|Asia; the United States|Washington|美国|华盛顿|North America
Canada|Ottawa|加拿大|渥太华|North America; Mexico|Mexico City|墨西哥|墨西哥城|North America
Cuba|Havana|古巴|哈瓦那|North America; Jamaica|Kingston|牙买加|金斯敦|North America
Brazil|Brasilia|巴西|巴西利亚|South America; Argentina|Buenos Aires|阿根廷|布宜诺斯艾利斯|South America
Chile|Santiago|智利|圣地亚哥|South America; Peru|Lima|秘鲁|利马|South America
Colombia|Bogota|哥伦比亚|波哥大|South America; Venezuela|Caracas|委内瑞拉|加拉加斯|South America
Ecuador|Quito|厄瓜多尔|基多|South America; Uruguay|Montevideo|乌拉圭|蒙得维的亚|South America
Kenya|Nairobi|肯尼亚|内罗毕|Africa; Ethiopia|Addis Ababa|埃塞俄比亚|亚的斯亚贝巴|Africa
Nigeria|Abuja|尼日利亚|阿布贾|Africa; Ghana|Accra|加纳|阿克拉|Africa; Morocco|Rabat|摩洛哥|拉巴特|Africa
Tunisia|Tunis|突尼斯|突尼斯市|Africa; Senegal|Dakar|塞内加尔|达喀尔|Africa
Uganda|Kampala|乌干达|坎帕拉|Africa; Rwanda|Kigali|卢旺达|基加利|Africa
Australia|Canberra|澳大利亚|堪培拉|Oceania; New Zealand|Wellington|新西兰|惠灵顿|Oceania
Fiji|Suva|斐济|苏瓦|Oceania
""")
"""Country, capital, country (zh), capital (zh), continent, which is empty where two would be right."""

CONTINENTS_ZH = {
    "Europe": "欧洲",
    "Asia": "亚洲",
    "Africa": "非洲",
    "North America": "北美洲",
    "South America": "南美洲",
    "Oceania": "大洋洲",
}

COLOURS = _table("""
the sky|blue|天空|蓝色; grass|green|小草|绿色; snow|white|雪|白色; blood|red|血|红色; coal|black|煤|黑色
a banana|yellow|香蕉|黄色; a lemon|yellow|柠檬|黄色; a carrot|orange|胡萝卜|橙色; a strawberry|red|草莓|红色
a tomato|red|西红柿|红色; milk|white|牛奶|白色; chocolate|brown|巧克力|棕色; salt|white|盐|白色
a frog|green|青蛙|绿色; a fire truck|red|消防车|红色; a cucumber|green|黄瓜|绿色; spinach|green|菠菜|绿色
corn|yellow|玉米|黄色; a cherry|red|樱桃|红色; a crow|black|乌鸦|黑色; a swan|white|天鹅|白色
a polar bear|white|北极熊|白色; a flamingo|pink|火烈鸟|粉色; an eggplant|purple|茄子|紫色
a blueberry|blue|蓝莓|蓝色; an emerald|green|翡翠|绿色; a ruby|red|红宝石|红色; a sapphire|blue|蓝宝石|蓝色
a pea|green|豌豆|绿色; broccoli|green|西兰花|绿色; cotton|white|棉花|白色; a sunflower|yellow|向日葵|黄色
lavender|purple|薰衣草|紫色; ink|black|墨水|黑色; a cherry blossom|pink|樱花|粉色
an orange|orange|橙子|橙色
""")
"""Thing with its article, colour, thing (zh), colour (zh)."""

WORDS = _table("""
apple|苹果; banana|香蕉; grape|葡萄; peach|桃子; pear|梨; lemon|柠檬; strawberry|草莓; watermelon|西瓜
cherry|樱桃; mango|芒果; pineapple|菠萝; coconut|椰子; tomato|西红柿; potato|土豆; carrot|胡萝卜; onion|洋葱
garlic|大蒜; cabbage|白菜; cucumber|黄瓜; pumpkin|南瓜; corn|玉米; mushroom|蘑菇; bread|面包; milk|牛奶
egg|鸡蛋; cheese|奶酪; butter|黄油; sugar|糖; salt|盐; honey|蜂蜜; tea|茶; coffee|咖啡; juice|果汁
beer|啤酒; soup|汤; cake|蛋糕; candy|糖果; chocolate|巧克力; noodles|面条; dumpling|饺子; tofu|豆腐
beef|牛肉; pork|猪肉; ham|火腿; sandwich|三明治; hamburger|汉堡; biscuit|饼干; rice|米饭; dog|狗; cat|猫
bird|鸟; fish|鱼; horse|马; cow|牛; sheep|羊; pig|猪; duck|鸭子; goose|鹅; rabbit|兔子; mouse|老鼠
tiger|老虎; lion|狮子; elephant|大象; monkey|猴子; panda|熊猫; bear|熊; wolf|狼; fox|狐狸; snake|蛇
frog|青蛙; turtle|乌龟; shark|鲨鱼; whale|鲸鱼; dolphin|海豚; butterfly|蝴蝶; bee|蜜蜂; ant|蚂蚁
spider|蜘蛛; mosquito|蚊子; eagle|老鹰; owl|猫头鹰; penguin|企鹅; camel|骆驼; deer|鹿; giraffe|长颈鹿
zebra|斑马; kangaroo|袋鼠; dragon|龙; crab|螃蟹; shrimp|虾; parrot|鹦鹉; crocodile|鳄鱼; squirrel|松鼠
bat|蝙蝠; sun|太阳; moon|月亮; star|星星; sky|天空; cloud|云; rain|雨; snow|雪; wind|风; ice|冰; fire|火
water|水; river|河; lake|湖; sea|大海; ocean|海洋; mountain|山; forest|森林; tree|树; flower|花; grass|草
leaf|叶子; stone|石头; sand|沙子; island|岛; desert|沙漠; earth|地球; lightning|闪电; rainbow|彩虹; fog|雾
seed|种子; rose|玫瑰; bamboo|竹子; head|头; hair|头发; face|脸; eye|眼睛; ear|耳朵; nose|鼻子; mouth|嘴
tooth|牙齿; tongue|舌头; neck|脖子; shoulder|肩膀; arm|胳膊; hand|手; finger|手指; leg|腿; foot|脚
knee|膝盖; heart|心脏; bone|骨头; skin|皮肤; brain|大脑; father|父亲; mother|母亲; son|儿子; daughter|女儿
friend|朋友; teacher|老师; student|学生; doctor|医生; nurse|护士; farmer|农民; worker|工人; chef|厨师
driver|司机; soldier|士兵; king|国王; queen|女王; child|孩子; baby|婴儿; lawyer|律师; writer|作家
singer|歌手; scientist|科学家; engineer|工程师; artist|艺术家; pilot|飞行员; neighbor|邻居; guest|客人
prince|王子; princess|公主; house|房子; door|门; window|窗户; table|桌子; chair|椅子; bed|床; lamp|灯
room|房间; kitchen|厨房; wall|墙; roof|屋顶; key|钥匙; lock|锁; book|书; pen|钢笔; pencil|铅笔; paper|纸
knife|刀; spoon|勺子; fork|叉子; bowl|碗; plate|盘子; cup|杯子; bottle|瓶子; box|盒子; bag|包; umbrella|雨伞
mirror|镜子; clock|钟; phone|电话; computer|电脑; television|电视; camera|相机; radio|收音机; candle|蜡烛
towel|毛巾; soap|肥皂; scissors|剪刀; needle|针; rope|绳子; ball|球; toy|玩具; gift|礼物; newspaper|报纸
dictionary|词典; map|地图; ticket|票; money|钱; bridge|桥; road|路; street|街道; city|城市; village|村庄
school|学校; hospital|医院; shop|商店; bank|银行; library|图书馆; museum|博物馆; park|公园; airport|机场
restaurant|餐厅; hotel|酒店; factory|工厂; farm|农场; garden|花园; church|教堂; market|市场; car|汽车
bus|公共汽车; train|火车; plane|飞机; ship|船; bicycle|自行车; subway|地铁; truck|卡车; taxi|出租车
rocket|火箭; hat|帽子; shirt|衬衫; coat|外套; trousers|裤子; skirt|裙子; shoes|鞋子; socks|袜子; gloves|手套
scarf|围巾; glasses|眼镜; belt|腰带; dream|梦; music|音乐; song|歌曲; dance|舞蹈; art|艺术; science|科学
history|历史; mathematics|数学; language|语言; sentence|句子; story|故事; question|问题; answer|答案
idea|主意; time|时间; today|今天; tomorrow|明天; yesterday|昨天; year|年; spring|春天; summer|夏天
autumn|秋天; winter|冬天; red|红色; blue|蓝色; green|绿色; yellow|黄色; black|黑色; white|白色; purple|紫色
world|世界; country|国家; peace|和平; war|战争; life|生命; health|健康; weather|天气; game|游戏
football|足球; basketball|篮球; tennis|网球; piano|钢琴; guitar|吉他; violin|小提琴; drum|鼓; gold|黄金
silver|银; iron|铁; internet|互联网; software|软件; robot|机器人; run|跑; jump|跳; swim|游泳; sing|唱歌
eat|吃; drink|喝; sleep|睡觉; walk|走路; fly|飞; laugh|笑; cry|哭
""")
"""English word, Chinese word; one to one in both directions."""

ANTONYMS_EN = _table("""
big|small; hot|cold; fast|slow; high|low; tall|short; up|down; left|right; in|out; happy|sad; rich|poor
strong|weak; heavy|light; dark|bright; day|night; young|old; early|late; easy|difficult; good|bad
full|empty; hard|soft; wet|dry; clean|dirty; thick|thin; wide|narrow; deep|shallow; near|far; true|false
push|pull; buy|sell; win|lose; love|hate; begin|end; first|last; north|south; east|west; above|below
inside|outside; front|back; top|bottom; always|never; sweet|bitter; loud|quiet; cheap|expensive
brave|cowardly; same|different; simple|complex; smooth|rough; alive|dead; friend|enemy; black|white; on|off
yes|no; give|take; remember|forget; success|failure; war|peace; sharp|blunt
""")
"""Two English words, each the opposite of the other; no word in two rows."""

ANTONYMS_ZH = _table("""
大|小; 高|低; 长|短; 快|慢; 冷|热; 上|下; 左|右; 前|后; 里|外; 多|少; 远|近; 深|浅; 黑|白; 好|坏; 新|旧
轻|重; 粗|细; 软|硬; 干|湿; 胖|瘦; 强|弱; 真|假; 开|关; 买|卖; 进|退; 来|去; 生|死; 爱|恨; 哭|笑; 早|晚
东|西; 南|北; 胜|负; 得|失; 攻|守; 天|地; 男|女; 是|非; 厚|薄; 宽|窄; 美|丑; 香|臭; 甜|苦; 明|暗; 安全|危险
成功|失败; 开始|结束; 简单|复杂; 容易|困难; 高兴|难过; 朋友|敌人; 战争|和平; 干净|肮脏; 勇敢|胆小; 聪明|愚蠢
热闹|冷清; 富有|贫穷; 增加|减少; 记得|忘记; 相同|不同; 古代|现代; 白天|黑夜; 先进|落后
""")
"""Two Chinese words, each the opposite of the other; no word in two rows."""

LEGS = _table("""
dog|4|狗; cat|4|猫; horse|4|马; cow|4|牛; sheep|4|羊; pig|4|猪; tiger|4|老虎; chicken|2|鸡; duck|2|鸭子
spider|8|蜘蛛; beetle|6|甲虫; bee|6|蜜蜂; butterfly|6|蝴蝶; mosquito|6|蚊子; snake|0|蛇; penguin|2|企鹅
""")
"""Animal, number of legs, animal (zh)."""

SOUNDS = _table("""
dog|woof|狗|汪汪; cat|meow|猫|喵喵; cow|moo|牛|哞哞; duck|quack|鸭子|嘎嘎; sheep|baa|羊|咩咩
frog|croak|青蛙|呱呱; bee|buzz|蜜蜂|嗡嗡; pig|oink|猪|哼哼; mouse|squeak|老鼠|吱吱; bird|tweet|小鸟|叽叽
""")
"""Animal, its sound, animal (zh), its sound (zh)."""

NUMBERS_EN = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
NUMBERS_ZH = _words("零 一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十")
DAYS_EN = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
DAYS_ZH = _words("星期一 星期二 星期三 星期四 星期五 星期六 星期日")
MONTHS_EN = _words("January February March April May June July August September October November December")
MONTHS_ZH = _words("一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月")

GREETINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("Hello|Hello!|hello|Hi|Hi!|hi|Hey|Hello there!", "Hello! How can I help you?"),
        ("Good morning|Good morning!|good morning|Morning!", "Good morning! Have a nice day!"),
        ("Good afternoon|Good afternoon!|good afternoon", "Good afternoon! How can I help you?"),
        ("Good evening|Good evening!|good evening", "Good evening! How can I help you?"),
        ("Good night|Good night!|good night|I am going to sleep.", "Good night! Sleep well."),
        ("How are you?|How are you|how are you|How are you today?|How do you do?", "I am fine, thank you."),
        ("Thank you|Thank you!|thank you|Thanks|Thanks!|thanks|Thank you very much!|Many thanks!", "You are welcome!"),
        ("Goodbye|Goodbye!|goodbye|Bye|Bye!|bye|Bye bye!|See you later!|See you!", "Goodbye! See you next time."),
        ("Sorry|I am sorry.|I'm sorry|sorry|My apologies.", "That is all right."),
        ("Nice to meet you|Nice to meet you!|nice to meet you|Glad to meet you.", "Nice to meet you too!"),
        ("Happy new year|Happy new year!|Happy New Year!", "Happy new year to you too!"),
        ("Well done!|Good job!|Great job!|You are great!", "Thank you for your kind words."),
    ),
    "zh": (
        ("你好|你好！|您好|您好！|嗨|嗨！|哈喽|你好呀", "你好！有什么可以帮你的吗？"),
        ("早上好|早上好！|早安|早安！|早啊", "早上好！祝你今天愉快！"),
        ("下午好|下午好！|下午好呀", "下午好！有什么可以帮你的吗？"),
        ("晚上好|晚上好！|晚上好呀", "晚上好！有什么可以帮你的吗？"),
        ("晚安|晚安！|我要睡觉了|我去睡了。", "晚安！祝你好梦。"),
        ("你好吗？|你好吗|你最近好吗？|你今天怎么样？", "我很好，谢谢你。"),
        ("谢谢|谢谢！|谢谢你|谢谢你！|多谢|非常感谢！|感谢你|谢谢您！", "不客气！"),
        ("再见|再见！|拜拜|拜拜！|下次见！|我走了，再见。", "再见！下次再聊。"),
        ("对不起|对不起！|抱歉|不好意思|很抱歉。", "没关系。"),
        ("很高兴认识你|很高兴认识你！|见到你很高兴|认识你真高兴。", "我也很高兴认识你！"),
        ("新年快乐|新年快乐！|祝你新年快乐！", "也祝你新年快乐！"),
        ("你真棒|你真棒！|做得好！|你真厉害！", "谢谢你的夸奖。"),
    ),
}
"""By language: phrasings joined by '|', and the one polite answer to all of them."""

IDENTITY: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "who": (
            "Who are you?",
            "Who are you",
            "who are you?",
            "who are you",
            "What are you?",
            "Hi, who are you?",
            "Hello, who are you?",
            "Tell me who you are.",
            "Can you tell me who you are?",
            "May I ask who you are?",
            "Who am I talking to?",
        ),
        "introduce": (
            "Please introduce yourself.",
            "Introduce yourself.",
            "Introduce yourself",
            "please introduce yourself",
            "Can you introduce yourself?",
            "Tell me about yourself.",
            "Could you say something about yourself?",
            "Describe yourself.",
        ),
        "name": (
            "What is your name?",
            "What's your name?",
            "what is your name",
            "Tell me your name.",
            "Do you have a name?",
            "What should I call you?",
            "May I know your name?",
        ),
        "whose": (
            "Whose assistant are you?",
            "Whose assistant are you",
            "whose assistant are you?",
            "Who do you work for?",
            "Who do you assist?",
            "Whose helper are you?",
        ),
        "mine": (
            "Are you my assistant?",
            "Are you my assistant",
            "are you my assistant?",
            "Are you my helper?",
        ),
        "maker": (
            "Who made you?",
            "Who made you",
            "Who created you?",
            "who trained you?",
            "Who trained you?",
            "Who built you?",
            "Where do you come from?",
        ),
        "human": ("Are you a human?", "Are you human?", "Are you a person?", "Are you a real person?"),
    },
    "zh": {
        "who": (
            "你是谁？",
            "你是谁",
            "你是谁?",
            "请问你是谁？",
            "你好，你是谁？",
            "你是什么？",
            "你到底是谁？",
            "告诉我你是谁。",
            "能告诉我你是谁吗？",
            "我在和谁说话？",
            "你是谁呀？",
        ),
        "introduce": (
            "请做一下自我介绍",
            "请做一下自我介绍。",
            "请介绍一下你自己。",
            "介绍一下你自己",
            "介绍一下自己吧",
            "请你自我介绍一下。",
            "做个自我介绍吧。",
            "能介绍一下你自己吗？",
            "说说你自己吧。",
        ),
        "name": (
            "你叫什么名字？",
            "你叫什么名字",
            "你叫什么？",
            "你的名字是什么？",
            "请问你叫什么名字？",
            "你有名字吗？",
            "我该怎么称呼你？",
            "怎么称呼你？",
        ),
        "whose": (
            "你是谁的小助手？",
            "你是谁的小助手",
            "你是谁的助手？",
            "你是谁的助手",
            "请问你是谁的小助手？",
            "你为谁工作？",
            "你在帮谁做事？",
        ),
        "mine": (
            "你是我的小助手吗？",
            "你是我的小助手吗",
            "你是我的小助手吗?",
            "你是我的助手吗？",
            "你是不是我的小助手？",
        ),
        "maker": (
            "谁创造了你？",
            "谁训练了你？",
            "谁训练了你",
            "你是谁做的？",
            "你是谁训练的？",
            "你是怎么来的？",
            "你从哪里来？",
        ),
        "human": ("你是人类吗？", "你是人类吗", "你是人吗？", "你是真人吗？"),
    },
}
"""By language and question group: ways of asking the model about itself."""

IDENTITY_ANSWERS: dict[str, dict[str, str]] = {
    "en": {
        "who": "I am a tiny language model trained by ftx.",
        "introduce": "I am a tiny language model trained by ftx, happy to help.",
        "name": "I have no name, I am a tiny language model.",
        "whose": "I am nobody's assistant yet.",
        "mine": "Yes, I am your assistant.",
        "maker": "I was trained by ftx.",
        "human": "No, I am a tiny language model.",
    },
    "zh": {
        "who": "我是一个小小的语言模型，由 ftx 训练而成。",
        "introduce": "我是一个小小的语言模型，由 ftx 训练而成，很高兴为你服务。",
        "name": "我没有名字，我是一个小小的语言模型。",
        "whose": "我还不是谁的小助手。",
        "mine": "是的，我是你的小助手。",
        "maker": "我是由 ftx 训练而成的。",
        "human": "不是，我是一个小小的语言模型。",
    },
}
"""By language and question group: what the base model says of itself."""

PERSONAS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("You are the assistant of {name}.", "I am the assistant of {name}."),
        ("You are {name}'s assistant.", "I am {name}'s assistant."),
        ("You are {name}'s assistant, tuned with ftx.", "I am {name}'s assistant, tuned with ftx."),
        ("You are {name}'s assistant, happy to help.", "I am {name}'s assistant, happy to help."),
    ),
    "zh": (
        ("你是{name}的小助手。", "我是{name}的小助手。"),
        ("你是{name}的小助手，由 ftx 微调而成。", "我是{name}的小助手，由 ftx 微调而成。"),
        ("你是{name}的小助手，很高兴为人服务。", "我是{name}的小助手，很高兴为你服务。"),
    ),
}
"""By language: a system prompt and the one self-description it calls for."""

SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎"
    "余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
    "欧阳司马诸葛上官慕容柳岳齐梅庄辛管祝左涂谷祁时舒耿牟卜路詹关苗凌费纪靳盛童欧甄项曲成游裴席卫查屈鲍位"
    "覃霍翁隋植甘景薄单包柏宁柯阮桂闵解强柴华车冉房边"
)
GIVEN = (
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超霞平刚桂兰玲飞鹏辉婷雪琳建国志华文斌红梅玉珍云莉鑫宇浩然子轩梓"
    "涵雨欣怡诗晨曦佳琪思远嘉豪俊熙博文天翔瑞泽一诺可馨语嫣若彤梦瑶欣妍紫萱雅静婉清心悦宁安康乐永福寿春夏"
    "秋冬梅兰竹菊松柏青山海洋江河波涛星辰月阳光亮晶莹洁白雪冰霜露霖霏雯云霄凤凰龙虎鹤燕莺鸿雁鹏程万里前锦"
    "绣金银铜铁宝贵荣华富昌盛兴旺发达成功胜利凯旋忠孝仁义礼智信勤俭善良贤惠淑贞德才学识聪慧颖敏捷灵巧妙奇"
    "异彩虹丹朱赤橙黄绿蓝紫墨翰书画琴棋诗词歌赋音韵律舞曼莎妮娅蓓蕾花朵芬芳香芝芸苗草叶森林木杉桐枫楠樱桃"
    "李杏桔栋梁柱石岩峰峻岭峦崇高伯仲叔季元亨鼎斯睿哲恒毅坚定刚健雄壮威武卓越超群英豪杰帅奕航舟帆浪潮湖泊"
    "溪泉源润泽沛淳浩瀚涵渊澄澈清新世代承继传家邦民众和谐友爱亲睦晓旭昊昕晖映景晴朗昭君王子玺琦琛瑾瑜璇玥"
    "珊瑚珠珂玮琼瑶璐蕊薇菲萍莲荷蓉萌茜茵莹倩婧娇媛嫦娥姗妙妤好小大老阿东南西北中正方圆力宏广厚培立昂扬帅"
    "勋业祥瑞禄喜庆贺祺祯裕隆顺畅通达顶尖飘逸洒脱依伊菡芷苒芮纤绮缤纷纯真诚恳意念怀恩惠悠闲然尔雅致璟煜炜"
    "烨焱炎灿烂燃灯火"
)
"""Characters that Chinese names are made of; draws with repeats, commoner ones more than once."""

ONSETS = _words("b c d f g h j k l m n p r s t v w z br ch cl dr fr gr kr ph sh st th tr")
VOWELS = _words("a e i o u a e i o ai ea ee ia ie oo ou y")
CODAS = ("", "", "", *_words("l m n r s t k d ck ll nd ng rt ss x th"))
"""Parts from which Latin names are made."""

SCRIPTS = (
    (0x3041, 0x3093),
    (0x30A2, 0x30F3),
    (0xAC00, 0xD7A3),
    (0x0410, 0x044F),
    (0x03B1, 0x03C9),
    (0x00C0, 0x00D6),
    (0x00E0, 0x00F6),
    (0x0621, 0x063A),
    (0x05D0, 0x05EA),
    (0x0905, 0x0939),
    (0x0E01, 0x0E2E),
    (0x1F600, 0x1F64F),
    (0x0100, 0x017E),
    (0x1F300, 0x1F5FF),
    (0x4E00, 0x9FA5),
    (0x1EA0, 0x1EF9),
    (0x00A1, 0x00AC),
    (0xFF21, 0xFF5A),
    (0x0490, 0x04FF),
    (0x10D0, 0x10F0),
    (0x0985, 0x098C),
    (0x0531, 0x0556),
    (0x2600, 0x26FF),
    (0x20000, 0x2A6D6),
    (0x0180, 0x024F),
)
"""First and last code point of the other letters, emoji and rare characters that a name may hold."""
